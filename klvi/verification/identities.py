"""The identities that hold of any prior, reward and policy (theory, section 6)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import Tensor

from klvi.metrics.frontier import frontier_violation
from klvi.metrics.measurement import Measurement
from klvi.targets.constraint import Constraint
from klvi.verification.claim import Claim
from klvi.verification.space import Space

SECTION = "Identities"
ROUNDING = 1e-9
BETAS = (3.0, 1.0, 1 / 3)


def identities(space: Space, policies: Mapping[str, Tensor]) -> Iterator[Claim]:
    """The claims about `policies`, log π(x) `(S,)` by name."""
    yield _normalisation(space, policies)
    yield _objective(space, policies)
    yield _penalised_reward(space)
    yield _penalised_variance(space, policies)
    yield _posterior(space)
    yield _binary_limit(space)
    yield _base_rate(space)
    yield _frontier(space, policies)
    yield _doctored(space)


def _zero(name: str, theory: str, values: list[float], tolerance: float = ROUNDING) -> Claim:
    worst = max(abs(value) for value in values)
    return Claim(SECTION, name, theory, f"differ by {worst:.1e}", worst <= tolerance)


def _normalisation(space: Space, policies: Mapping[str, Tensor]) -> Claim:
    every = [space.log_prior, *policies.values()]
    errors = [float(log.exp().sum()) - 1 for log in every]
    return _zero(
        f"π0 and π over all {len(space.sequences):,} sequences", "sum to 1", errors, tolerance=1e-6
    )


def _objective(space: Space, policies: Mapping[str, Tensor]) -> Claim:
    errors = []
    for log_policy in policies.values():
        found = space.exact(log_policy)
        objective = found["eval/reward"] - space.beta * found["eval/kl_prior"]
        bound = space.beta * (found["eval/log_z"] - found["eval/kl_target_reverse"])
        errors.append(objective - bound)
    return _zero("E[r] − β·KL(π‖π0), what kl maximises", "= β·log Z − β·KL(π‖p)", errors)


def _penalised_reward(space: Space) -> Claim:
    spread = space.exact(space.log_posterior())["eval/penalised_reward_std"]
    return _zero("std of r + β·(log π0 − log π) at p", "= 0", [spread], tolerance=1e-7)


def _penalised_variance(space: Space, policies: Mapping[str, Tensor]) -> Claim:
    log_target, errors = space.log_posterior(), []
    for log_policy in policies.values():
        ratio, policy = log_policy - log_target, log_policy.exp()
        variance = float(policy @ (ratio - policy @ ratio) ** 2)
        spread = space.exact(log_policy)["eval/penalised_reward_std"]
        errors.append(spread**2 - space.beta**2 * variance)
    return _zero("its variance at π", "= β²·Var(log π/p)", errors)


def _posterior(space: Space) -> Claim:
    errors, distances = [], []
    for factor in BETAS:
        beta = factor * space.beta
        found = space.at(beta).exact(space.log_prior)
        known = found["target/reward"] / beta - found["eval/log_z"]
        errors.append(found["target/kl_prior"] - known)
        distances.append(found["target/kl_prior"])
    claim = _zero("KL(p‖π0), rising as β falls", "= E_p[r]/β − log Z", errors)
    rising = distances == sorted(distances)
    return Claim(SECTION, claim.name, claim.theory, claim.measured, passed=claim.passed and rising)


def _binary(space: Space) -> tuple[Space, Constraint, float]:
    """The space with reward 1 above its prior mean and 0 below, its constraint and base rate."""
    prior = space.log_prior.exp()
    binary = (space.reward > prior @ space.reward).double()
    constraint = Constraint(space.target.reward, 0.5, space.beta)
    return space.rewarded(binary), constraint, float(prior @ binary)


def _binary_limit(space: Space) -> Claim:
    binary, constraint, rate = _binary(space)
    found = binary.exact(binary.log_posterior(), constraint)
    known = (1 - rate) / (1 - rate + rate * math.exp(1 / space.beta))
    return _zero(
        "TV from a 0/1 reward's posterior to its constraint",
        "= (1−Z)/(1−Z+Z·e^(1/β))",
        [found["eval/tv_target"] - known],
    )


def _base_rate(space: Space) -> Claim:
    binary, constraint, rate = _binary(space)
    found = binary.exact(space.log_prior, constraint)
    return _zero(
        "KL(p‖π0) of that constraint",
        "= −log base rate",
        [found["target/kl_prior"] + math.log(rate)],
    )


def _points(space: Space, policies: Mapping[str, Tensor]) -> Iterator[tuple[float, float, float]]:
    """Of every policy at every temperature: reward, bound on it, temperature."""
    for log_policy in policies.values():
        for factor in BETAS:
            beta = factor * space.beta
            found = space.at(beta).exact(log_policy)
            yield found["eval/reward"], beta * (found["eval/kl_prior"] + found["eval/log_z"]), beta


def _frontier(space: Space, policies: Mapping[str, Tensor]) -> Claim:
    every = {"prior": space.log_prior, "posterior": space.log_posterior(), **policies}
    slack = min(bound - reward for reward, bound, _ in _points(space, every))
    return Claim(
        SECTION,
        "β·KL(π‖π0) + β·log Z less the reward, at any β",
        "≥ 0, = 0 at p",
        f"at least {slack:.1e}",
        abs(slack) <= ROUNDING,
    )


def _doctored(space: Space) -> Claim:
    """The check of a run's evaluations must see a KL that is only half of what it is."""
    found = space.exact(space.log_posterior())
    names = ("eval/reward", "eval/kl_prior", "eval/log_z")
    reward, kl, log_z = (Measurement(found[n], found[n], found[n], 1) for n in names)
    half = Measurement(kl.value / 2, kl.value / 2, kl.value / 2, 1)
    honest = frontier_violation(reward, kl, log_z, space.beta)
    caught = frontier_violation(reward, half, log_z, space.beta)
    return Claim(
        SECTION,
        "a run's frontier check, on p with half its KL",
        "warns, and not on p itself",
        "warned" if caught and not honest else f"{honest or 'no warning'}",
        bool(caught) and honest is None,
    )
