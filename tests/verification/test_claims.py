"""Claims hold where the numbers are right, and fail where one is not."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import pytest
import torch
from support import LetterReward, train_config
from torch import Tensor

from klvi.contexts import contexts_of
from klvi.evaluation.evaluator import Evaluator
from klvi.metrics.enumeration import enumerate_sequences
from klvi.metrics.measurement import Measurement, Metric, Unavailable
from klvi.runs.assembly import assemble_evaluator
from klvi.samples import Samples
from klvi.targets.posterior import Posterior
from klvi.verification.claim import Claim
from klvi.verification.controls import negative_controls
from klvi.verification.dissociation import double_dissociation
from klvi.verification.estimates import Calibration, calibrations, estimators
from klvi.verification.identities import identities
from klvi.verification.space import Space

SEQUENCES = enumerate_sequences(range(3), end=3, length=3)


def random_log(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(SEQUENCES), generator=generator).double().log_softmax(0)


def space_of(log_prior: Tensor, reward: Tensor) -> Space:
    """A prior whose log-probabilities stand on the first tokens."""
    count = len(SEQUENCES)
    first = torch.zeros(SEQUENCES.tokens.shape).double()
    first[:, 0] = log_prior
    samples = Samples(
        contexts=contexts_of([""] * count),
        prompt_tokens=torch.zeros(count, 1, dtype=torch.long),
        prompt_lengths=torch.ones(count, dtype=torch.long),
        tokens=SEQUENCES.tokens,
        lengths=SEQUENCES.lengths,
        ended=SEQUENCES.ended,
        log_policy=first,
        log_prior=first,
        texts=[""] * count,
        scores={"reward": reward},
    )
    return Space(SEQUENCES, samples, Posterior(LetterReward(), 0.2))


@pytest.fixture
def space() -> Space:
    reward = torch.rand(len(SEQUENCES), generator=torch.Generator().manual_seed(9)).double()
    return space_of(random_log(0), reward)


def failures(claims: Any) -> list[str]:
    return [claim.name for claim in claims if not claim.passed]


def test_identities_hold_of_any_policies(space: Space) -> None:
    policies = {name: random_log(seed) for seed, name in enumerate("abc", start=1)}
    claims = list(identities(space, policies))
    assert failures(claims) == []
    assert len(claims) == 9


def test_a_wrong_posterior_breaks_identities(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Posterior, "log_potential", lambda self, samples: samples.reward / self.beta**0.9
    )
    assert "E[r] − β·KL(π‖π0), what kl maximises" in failures(
        identities(space, {"a": space.log_prior})
    )


def test_a_policy_that_loses_mass_breaks_identities(space: Space) -> None:
    claims = identities(space, {"a": random_log(1) + math.log(1 - 1e-4)})
    assert "π0 and π over all 40 sequences" in failures(claims)


def test_a_blind_frontier_check_breaks_identities(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("klvi.verification.identities")
    monkeypatch.setattr(module, "frontier_violation", lambda *_: None)
    (name,) = failures(identities(space, {"a": random_log(1)}))
    assert name.startswith("a run's frontier check")


def test_negative_controls_rest_elsewhere(space: Space) -> None:
    claims = list(negative_controls(space))
    assert failures(claims) == []
    assert [claim.theory for claim in claims] == [
        "rests at p",
        "rests at p at β·σ, which misses p",
        "rests at β·π0/(Λ − r), which misses p",
    ]


def test_a_control_that_does_not_miss_fails(space: Space) -> None:
    unit = space.reward / space.reward.std()
    same = space.rewarded(unit)
    (name,) = failures(negative_controls(same))
    assert name.startswith("reward divided by its std")


def calibration(
    misses: int, count: int = 40, refused: int = 0, exact: float = 0.5, upper: float = 1.1
) -> Calibration:
    """Evaluations of which `misses` lie beside the exact reward, and bounds on log Z = 1."""
    around = Measurement(1.0, 0.9, 1.1, 100)
    bounds = {
        "eval/log_z": around,
        "eval/log_z_lower": around,
        "eval/log_z_upper": Measurement(upper, upper - 0.05, upper + 0.05, 100),
    }
    near, far = (
        Measurement(exact + gap, exact + gap - 0.1, exact + gap + 0.1, 100) for gap in (0.05, 0.3)
    )
    rewards: list[Metric] = [far] * misses + [near] * (count - misses)
    rewards += [Unavailable("few")] * refused
    truth = {
        "eval/reward": exact,
        "eval/log_z": 1.0,
        "eval/log_z_lower": 0.9,
        "eval/log_z_upper": 1.1,
    }
    return Calibration(truth, [{"eval/reward": reward, **bounds} for reward in rewards])


def claim_of(found: list[Calibration], name: str) -> Claim:
    return next(claim for claim in estimators(found) if claim.name == name)


def test_intervals_that_hold_the_exact_value_pass() -> None:
    claim = claim_of([calibration(2, exact=0.5), calibration(1, exact=0.7)], "reward")
    assert claim.passed
    assert claim.theory == "95% hold 0.5 to 0.7"
    assert claim.measured == "96.2% of 80"


@pytest.mark.parametrize(("misses", "passed"), [(7, True), (20, False)])
def test_intervals_that_miss_it_too_often_fail(misses: int, passed: bool) -> None:
    """Where 92% hold, 80 intervals have 6.4 misses on average, and 20 once in 100,000 runs."""
    assert claim_of([calibration(misses, 80)], "reward").passed == passed


def test_an_interval_without_width_holds_its_own_value_alone() -> None:
    point = Measurement(0.5, 0.5, 0.5, 100)
    right = Calibration({"eval/reward": 0.5}, [{"eval/reward": point, **NO_BOUNDS}] * 20)
    wrong = Calibration({"eval/reward": 0.501}, [{"eval/reward": point, **NO_BOUNDS}] * 20)
    assert claim_of([right], "reward").passed
    assert not claim_of([wrong], "reward").passed


NO_BOUNDS: dict[str, Metric] = dict.fromkeys(
    ("eval/log_z_lower", "eval/log_z_upper"), Unavailable("not asked")
)


def test_no_two_evaluations_share_their_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def measure(evaluator: Evaluator, update: int) -> tuple[dict[str, Metric], None]:
        seeds.append(evaluator.seed)
        return {}, None

    monkeypatch.setattr(Evaluator, "measure", measure)
    evaluators = [assemble_evaluator(train_config(), adapted=True) for _ in range(2)]
    assert len(list(calibrations(evaluators, 3))) == 6
    assert len(set(seeds)) == len(seeds) == 18


def test_a_refused_estimate_is_counted_and_not_judged() -> None:
    claim = claim_of([calibration(0, refused=3)], "reward")
    assert claim.passed
    assert claim.measured == "100.0% of 40; 3 refused"


def test_bounds_on_the_wrong_side_break_the_sandwich() -> None:
    name = "log_z_lower ≤ log Z ≤ log_z_upper"
    assert claim_of([calibration(0)], name).passed
    assert not claim_of([calibration(0, upper=0.8)], name).passed
    swapped = calibration(0)
    exact = {**swapped.exact, "eval/log_z_lower": 1.2}
    assert not claim_of([Calibration(exact, swapped.evaluations)], name).passed


def ending(**changes: float) -> list[dict[str, float]]:
    start = {"kl_prior": 0.0, "entropy": 4.0, "kl_target_reverse": 1.5, "kl_target_forward": 1.7}
    end = {
        "entropy": 3.0,
        "kl_target_reverse": 0.002,
        "kl_target_forward": 0.002,
        "reward": 0.6,
        "target/reward": 0.6,
        "target/entropy": 3.0,
        "policy/largest_probability": 0.2,
        **changes,
    }
    return [{f"exact/{name}": value for name, value in part.items()} for part in (start, end)]


COLLAPSED = {
    "entropy": 0.1,
    "kl_target_reverse": 6.0,
    "reward": 0.9,
    "policy/largest_probability": 0.99,
}


def test_the_double_dissociation() -> None:
    records = {"rl": ending(**COLLAPSED), "kl": ending(), "gdc": ending()}
    assert failures(double_dissociation(records)) == []


@pytest.mark.parametrize(
    ("objective", "change", "name"),
    [
        ("rl", {"entropy": 0.5}, "rl collapses: entropy"),
        ("rl", {"policy/largest_probability": 0.8}, "rl collapses: largest probability"),
        ("rl", {"kl_target_reverse": 0.5}, "rl misses p, at a higher reward"),
        ("rl", {"reward": 0.5}, "rl misses p, at a higher reward"),
        ("kl", {"kl_target_reverse": 0.02}, "kl reaches p"),
        ("gdc", {"kl_target_forward": 0.02}, "gdc reaches p"),
        ("gdc", {"entropy": 2.9}, "kl and gdc have the entropy of p"),
    ],
)
def test_each_part_of_it_can_fail(objective: str, change: dict[str, float], name: str) -> None:
    records = {"rl": ending(**COLLAPSED), "kl": ending(), "gdc": ending()}
    base = COLLAPSED if objective == "rl" else {}
    assert failures(double_dissociation({**records, objective: ending(**{**base, **change})})) == [
        name
    ]
