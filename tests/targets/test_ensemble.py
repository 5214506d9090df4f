"""Pessimistic and optimistic posteriors of several scores, against exact sums."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from support import LetterReward, made_samples
from target_sums import NO_PROMPT, PROMPTS, Members, distribution, every, exact, log_z

from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.targets.ensemble import Ensemble
from klvi.targets.posterior import Posterior
from klvi.targets.preference import Preference

BETA = 0.3
REWARD = Members()


def potentials(policy: Policy, target: Any) -> torch.Tensor:
    return target.log_potential(every(exact(target, policy)))


def members(policy: Policy, scale: float = 1.0) -> torch.Tensor:
    """`(S, 3)`."""
    scores = every(exact(Ensemble(Members(scale)), policy)).scores
    return torch.stack([scores[f"reward/{name}"] for name in ("late", "short", "odd")], 1)


@pytest.mark.parametrize(
    ("spread", "expected"),
    [
        ("variance", lambda r: ((r - r.mean(1, keepdim=True)) ** 2).mean(1)),
        ("std", lambda r: ((r - r.mean(1, keepdim=True)) ** 2).mean(1).sqrt()),
        ("min", lambda r: r.mean(1) - r.min(1).values),
    ],
)
def test_the_potential_is_the_mean_less_the_spread(
    spread: Any, expected: Any, policy: Policy
) -> None:
    r = members(policy)
    found = potentials(policy, Ensemble(REWARD, pessimism=0.7, spread=spread, beta=BETA))
    torch.testing.assert_close(found, (r.mean(1) - 0.7 * expected(r)) / BETA)


def test_the_worst_case_is_the_smallest_member(policy: Policy) -> None:
    found = potentials(policy, Ensemble(REWARD, spread="min", beta=BETA))
    torch.testing.assert_close(found, members(policy).min(1).values / BETA)


def test_from_the_worst_case_to_the_best(policy: Policy) -> None:
    """min ≤ −β log mean e^{−r/β} ≤ mean ≤ β log mean e^{r/β} ≤ max, all in nats here."""
    r = members(policy) / BETA
    chain = [
        potentials(policy, Ensemble(REWARD, spread="min", beta=BETA)),
        math.log(3) - (-r).logsumexp(1),
        potentials(policy, Ensemble(REWARD, pessimism=0.0, beta=BETA)),
        potentials(policy, Preference(REWARD, BETA)),
        r.max(1).values,
    ]
    for lower, higher in pairwise(chain):
        assert bool((lower <= higher + 1e-12).all())
        assert bool((lower < higher - 1e-3).any())


def test_a_preference_is_optimistic_by_half_the_variance(policy: Policy) -> None:
    """β log mean e^{r/β} = mean + var/2β + O(r³/β²), here for members of size 1e-3."""
    small = Members(1e-3)
    mean = potentials(policy, Ensemble(small, pessimism=0.0, beta=1.0))
    gap = potentials(policy, Preference(small, 1.0)) - mean
    torch.testing.assert_close(
        gap, members(policy, 1e-3).var(1, correction=0) / 2, rtol=1e-3, atol=1e-12
    )


@pytest.mark.parametrize(
    ("spread", "invariant"), [("std", True), ("min", True), ("variance", False)]
)
def test_reward_and_beta_scaled_together(spread: Any, invariant: bool, policy: Policy) -> None:
    p = distribution(Ensemble(REWARD, spread=spread, beta=BETA), policy)
    scaled = distribution(Ensemble(Members(5.0), spread=spread, beta=5 * BETA), policy)
    assert torch.allclose(p, scaled, atol=1e-10) == invariant


def test_with_the_variance_pessimism_is_in_inverse_units(policy: Policy) -> None:
    p = distribution(Ensemble(REWARD, pessimism=2.0, beta=BETA), policy)
    scaled = distribution(Ensemble(Members(5.0), pessimism=2.0 / 5, beta=5 * BETA), policy)
    torch.testing.assert_close(p, scaled)


def test_pessimism_leads_to_where_members_agree(policy: Policy) -> None:
    spread = members(policy).var(1, correction=0)
    means = [
        float(distribution(Ensemble(REWARD, pessimism=c, beta=BETA), policy)[0] @ spread)
        for c in (0.0, 1.0, 4.0, 16.0)
    ]
    assert means == sorted(means, reverse=True)
    assert means[0] > 2 * means[-1]


@pytest.mark.parametrize("contexts", [NO_PROMPT, PROMPTS])
def test_a_preferences_evidence_is_the_mean_of_the_members(contexts: Any, policy: Policy) -> None:
    """Z = mean Z_m of each prompt, and p = Σ (Z_m/ΣZ)·p_m."""

    def member(name: str) -> Posterior:
        return Posterior(
            lambda texts: Members()(texts, [])[name].tolist(),  # type: ignore[arg-type]
            BETA,
        )

    each = [member(name) for name in ("late", "short", "odd")]
    evidence = torch.stack([log_z(target, policy, contexts).exp() for target in each])
    target = Preference(REWARD, BETA)
    torch.testing.assert_close(log_z(target, policy, contexts).exp(), evidence.mean(0))
    posteriors = torch.stack([distribution(target, policy, contexts) for target in each])
    mixed = ((evidence / evidence.sum(0))[:, :, None] * posteriors).sum(0)
    torch.testing.assert_close(distribution(target, policy, contexts), mixed)


@pytest.mark.parametrize("target", [Ensemble(LetterReward()), Preference(LetterReward())])
@pytest.mark.parametrize("others", [(), ("reward/one",), ("reward/a/b", "reward/a/c")])
def test_an_ensemble_of_one_is_refused(target: Any, others: tuple[str, ...]) -> None:
    samples = made_samples([1, 2])
    samples = samples.with_scores(dict.fromkeys(("reward", *others), samples.reward))
    with pytest.raises(
        UserError, match=rf"^target={target.name}: an ensemble of one.*reward=model"
    ):
        target.log_potential(samples)


@pytest.mark.parametrize("target", [Ensemble(REWARD, beta=1e-300), Preference(REWARD, 1e-300)])
def test_what_cannot_be_resolved_is_refused(target: Any, policy: Policy) -> None:
    with pytest.raises(UserError, match=r"beta=1e-300: log P reaches"):
        potentials(policy, target)


def test_settings_are_held_to_their_ranges() -> None:
    with pytest.raises(UserError, match="pessimism=-1"):
        Ensemble(REWARD, pessimism=-1)
    with pytest.raises(UserError, match="spread='range'"):
        Ensemble(REWARD, spread="range")  # type: ignore[arg-type]
