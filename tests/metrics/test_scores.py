"""Scores that the catalogue does not know are metrics, by names of their own."""

from __future__ import annotations

import pytest
import torch
from toy import graded_reward, problem, random_toy, sequences

from klvi.metrics.evaluate import evaluate
from klvi.metrics.exact import averaged
from klvi.metrics.measurement import Measurement, Metric, Unavailable
from klvi.metrics.scores import metric_name, score_specs, shown
from klvi.samples import Draw, Samples

SPACE = sequences()
CASE = problem(random_toy(2), random_toy(1), graded_reward(SPACE), graded_reward(SPACE))
FURTHER = {
    "reward/fluent": "eval/score/fluent",
    "reward/a/b": "eval/score/a/b",
    "feature/female": "eval/feature/female",
    "gold": "eval/gold",
    "gold/part": "eval/gold/part",
    "second/part": "eval/score/second/part",
}


def made(count: int, seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return CASE.samples(CASE.draw(CASE.log_prior, count, generator))


def measure(
    samples: Samples, prior: Samples | None = None, pass_k: tuple[int, ...] = ()
) -> dict[str, Metric]:
    def log_target(samples: Samples) -> torch.Tensor:
        return samples.log_prior_sequence + samples.reward

    return evaluate(
        Draw(samples),
        log_target(samples),
        beta=1.0,
        prior_samples=prior,
        prior_log_target=None if prior is None else log_target(prior),
        pass_k=pass_k,
    )


@pytest.mark.parametrize("score", FURTHER)
def test_a_score_has_a_metric_under_a_heading(score: str) -> None:
    name = metric_name(score)
    assert name == FURTHER[score]
    assert shown(name) is not None
    assert name in {spec.name for spec in score_specs(["reward", score])}


def test_metrics_without_a_score_of_theirs_are_none() -> None:
    assert list(score_specs(["reward"])) == []
    assert shown("eval/mine") is None


def test_each_score_has_a_mean_in_a_range_of_its_own() -> None:
    prior, samples = made(200, seed=1), made(100)
    scores = {"reward/low": torch.full((100,), -7.0), "feature/on": torch.ones(100)}
    theirs = {"reward/low": torch.full((200,), -9.0), "feature/on": torch.zeros(200)}
    found = measure(
        samples.with_scores({**samples.scores, **scores}),
        prior.with_scores({**prior.scores, **theirs}),
    )
    low, on = found["eval/score/low"], found["eval/feature/on"]
    assert isinstance(low, Measurement)
    assert isinstance(on, Measurement)
    assert (low.value, low.high) == (-7.0, -7.0)
    assert -7.1 < low.low < -7.0
    assert (on.value, on.high) == (1.0, 1.0)
    assert 0.9 < on.low < 1.0


def test_exact_values_of_further_scores_are_averaged_by_their_names() -> None:
    contexts = [{"eval/score/a": value, "eval/log_z": 1.0} for value in (1.0, 4.0)]
    assert averaged(contexts) == {"eval/score/a": 2.5, "eval/log_z": 1.0}
    gone = Unavailable("gone")
    assert averaged([*contexts, {"eval/score/a": gone, "eval/log_z": 1.0}])["eval/score/a"] == gone


def test_pass_at_k_is_of_binary_rewards_and_enough_samples() -> None:
    samples = made(64)
    found = measure(samples, pass_k=(1,))["eval/pass_at_1"]
    assert isinstance(found, Unavailable)
    assert "rewards of 0 and 1" in found.reason
    binary = samples.with_scores({"reward": (samples.reward > 0.5).float()})
    metrics = measure(binary, pass_k=(1, 4, 100))
    one, four, many = (metrics[f"eval/pass_at_{k}"] for k in (1, 4, 100))
    assert isinstance(one, Measurement)
    assert isinstance(four, Measurement)
    assert one.value == pytest.approx(float(binary.reward.mean()))
    assert one.value < four.value < 1
    assert many == Unavailable("pass@100 needs 100 samples of a prompt, and there are 64")
