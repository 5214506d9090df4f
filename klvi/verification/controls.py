"""Negative controls: popular variants of the KL-regularised objective that miss the posterior.

A policy gradient E_π[f·∇log π] vanishes for every parametrisation where the factor f is constant:
there, and only there, training comes to rest.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from klvi.verification.claim import Claim
from klvi.verification.space import Space

SECTION = "Negative controls"
BISECTIONS = 200
CONSTANT, FAR = 1e-9, 0.05


def negative_controls(space: Space) -> Iterator[Claim]:
    """Where `kl` comes to rest, and where its variants do."""
    target = space.log_posterior()
    yield _rest(space, "r − β·(log π − log π0), as in kl", "p", target, kl_factor(space, target))
    spread = float(space.reward.std())
    scaled = space.at(space.beta * spread).log_posterior()
    yield _rest(
        space,
        "reward divided by its std σ, KL added after",
        "p at β·σ",
        scaled,
        kl_factor(space, scaled, spread),
        kl_factor(space, target, spread),
    )
    other = k3_optimum(space)
    yield _rest(
        space,
        "k3 in the loss for the KL",
        "β·π0/(Λ − r)",
        other,
        k3_factor(space, other),
        k3_factor(space, target),
    )


def kl_factor(space: Space, log_policy: Tensor, scale: float = 1.0) -> Tensor:
    """`(S,)` what multiplies ∇log π(x) in the gradient of E[r/scale] − β·KL(π‖π0)."""
    return space.reward / scale - space.beta * (log_policy - space.log_prior)


def k3_factor(space: Space, log_policy: Tensor) -> Tensor:
    """`(S,)` the same for a loss of k3 = e^(−u) − 1 + u, u = log π − log π0, on samples of π."""
    return space.reward - space.beta * (1 - (space.log_prior - log_policy).exp())


def k3_optimum(space: Space) -> Tensor:
    """`(S,)` log of β·π0/(Λ − r), with the Λ that makes it sum to 1, by bisection of Λ − max r."""
    below, prior = space.reward.max() - space.reward, space.log_prior.exp()
    low, high = 0.0, space.beta
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        total = float((space.beta * prior / (middle + below)).sum())
        low, high = (middle, high) if total > 1 else (low, middle)
    return space.normalised(space.log_prior - (high + below).log())


def _rest(
    space: Space,
    name: str,
    place: str,
    log_policy: Tensor,
    factor: Tensor,
    factor_at_target: Tensor | None = None,
) -> Claim:
    """Training by `factor` rests at `log_policy`, and not at the target unless that is the same."""
    spread = float(factor.std())
    away = float(log_policy.exp() @ (log_policy - space.log_posterior()))
    measured = f"there f varies by {spread:.0e}"
    if factor_at_target is None:
        return Claim(SECTION, name, f"rests at {place}", measured, spread <= CONSTANT)
    pull = float(factor_at_target.std())
    return Claim(
        SECTION,
        name,
        f"rests at {place}, which misses p",
        f"{measured}, at p by {pull:.2g}; {away:.2g} nats from p",
        spread <= CONSTANT and pull > FAR * space.beta and away > FAR,
    )
