"""The shortfall in gold is split as its definition says, by enumeration.

That the intervals cover is tested in `tests/exact/test_estimators_coverage.py`.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toy import graded_gold, graded_reward, problem, random_toy, sequences

from klvi.metrics.evaluate import evaluate
from klvi.metrics.exact import exact_metrics
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.metrics.tilting import tilt_within_kl
from klvi.samples import Draw

SPACE = sequences()
PRIOR, POLICY = random_toy(1), random_toy(2)
REWARD, GOLD = graded_reward(SPACE), graded_gold(SPACE)
HARD = (SPACE.tokens[:, 0] == 2).double()


def kl(log_p: Tensor, log_q: Tensor) -> float:
    return float((log_p.exp() * (log_p - log_q)).sum())


def exact(gold: Tensor, beta: float = 0.4, reward: Tensor = REWARD) -> dict[str, float]:
    found = problem(POLICY, PRIOR, reward, reward / beta, gold).exact(beta)
    return {name: value for name, value in found.items() if isinstance(value, float)}


def test_no_distribution_at_that_kl_has_more_gold() -> None:
    found = exact(GOLD)
    log_prior = problem(POLICY, PRIOR, REWARD, REWARD, GOLD).log_prior.sum(1)
    generator = torch.Generator().manual_seed(0)
    tilts = [0.0, 0.2, 1.0, 3.0]
    for tilt in tilts:
        for _ in range(50):
            noise = torch.randn(len(SPACE), generator=generator, dtype=torch.float64)
            other = (log_prior + tilt * GOLD + noise).log_softmax(0)
            if kl(other, log_prior) <= found["target/kl_prior"]:
                assert float(other.exp() @ GOLD) < found["target/gold_best"]
    # Gold's own posterior at a smaller KL has less, and all that it lacks is the target's.
    assert found["target/gold"] < found["target/gold_best"] < float(GOLD.max())


def test_the_parts_are_those_of_the_shortfall() -> None:
    found = exact(GOLD)
    shortfall = found["target/gold_best"] - found["eval/gold"]
    assert found["eval/misspecified"] + found["eval/badly_approximated"] == pytest.approx(shortfall)
    assert found["eval/misspecified"] > 0


@pytest.mark.parametrize("gold", [REWARD, 3 * REWARD - 7], ids=["itself", "scaled"])
def test_a_target_of_gold_itself_is_well_specified(gold: Tensor) -> None:
    assert exact(gold)["eval/misspecified"] == pytest.approx(0, abs=1e-9)


def test_beyond_the_best_sequences_there_is_no_more() -> None:
    """KL(p‖π0) above −log m of a gold of base rate m: all of it can be had."""
    found = exact(HARD, beta=0.02)
    log_prior = problem(POLICY, PRIOR, REWARD, REWARD).log_prior.sum(1)
    assert found["target/kl_prior"] > -math.log(float(log_prior.exp() @ HARD))
    assert found["target/gold_best"] == pytest.approx(1.0, abs=1e-9)


def test_a_gold_that_never_varies_lacks_nothing() -> None:
    found = exact(torch.full_like(GOLD, 2.0))
    assert found["target/gold_best"] == pytest.approx(2.0)
    assert found["eval/misspecified"] == pytest.approx(0.0, abs=1e-12)


def test_with_contexts_kl_and_gold_are_means_and_the_tilt_is_common() -> None:
    priors = [problem(POLICY, random_toy(seed), REWARD, REWARD, GOLD) for seed in (3, 4)]
    log_priors = torch.stack([each.log_prior.sum(1) for each in priors])
    log_target = log_priors + REWARD / 0.4
    density = log_target.log_softmax(1)
    distance = float((density.exp() * (density - log_priors)).sum(1).mean())
    context = torch.arange(2).repeat_interleave(len(SPACE))
    tilt = tilt_within_kl(GOLD.repeat(2), log_priors.flatten(), context, distance)
    best = [
        exact_metrics(SPACE, prior, prior, target, {"gold": GOLD}, beta=0.4, n=10, tilt=tilt)[
            "target/gold_best"
        ]
        for prior, target in zip(log_priors, log_target, strict=True)
    ]
    posterior = (log_priors + tilt * GOLD).log_softmax(1)
    assert kl(posterior, log_priors) / 2 == pytest.approx(distance, abs=1e-9)
    assert sum(map(float, best)) / 2 == pytest.approx(float((posterior.exp() @ GOLD).mean()))


def test_samples_give_the_same_and_say_where_gold_is_out_of_reach() -> None:
    """Intervals of 99.99% of four metrics: one misses in 2,000 choices of seeds."""
    case = problem(POLICY, PRIOR, REWARD, REWARD / 0.6, GOLD)
    truth, generator = case.exact(0.6), torch.Generator().manual_seed(3)
    rows = [case.draw(log, 4000, generator) for log in (case.log_policy, case.log_prior)]

    def measured(floor: float) -> dict[str, Measurement | Unavailable]:
        return evaluate(
            Draw(case.samples(rows[0])),
            case.log_target[rows[0]],
            beta=0.6,
            prior_samples=case.samples(rows[1]),
            prior_log_target=case.log_target[rows[1]],
            ess_floor=floor,
            confidence=0.9999,
        )

    found = measured(30)
    names = ("target/gold", "target/gold_best", "eval/misspecified", "eval/badly_approximated")
    for name in names:
        metric, value = found[name], truth[name]
        assert isinstance(metric, Measurement)
        assert isinstance(value, float)
        assert metric.low <= value <= metric.high, name
        assert metric.high - metric.low < 0.5, name
    refused = [found for found in measured(1e9).values() if isinstance(found, Unavailable)]
    assert any("samples of the prior carry" in metric.reason for metric in refused)
