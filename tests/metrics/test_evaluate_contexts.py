"""Metrics of several contexts: each by itself, then the mean, with the interval of all of them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch
from toy import Problem, between, condition, graded_reward, problem, random_toy, sequences

from klvi.contexts import Context
from klvi.metrics import text
from klvi.metrics.evaluate import evaluate
from klvi.metrics.intervals import Estimate, average, interval
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.samples import Draw, Samples

ROWS, MEASURED, SAMPLES, BETA = 20, 8, 40, 0.5


@cache
def population() -> list[Problem]:
    """A policy between its prior and its target, of each of ROWS contexts, near and far."""
    space, found = sequences(), []
    reward = graded_reward(space)
    for row in range(ROWS):
        prior = random_toy(row, 1.0)
        policy = between(prior, condition(prior, reward / BETA, space), 0.4 + 0.4 * row / ROWS)
        found.append(problem(policy, prior, reward, reward / BETA))
    return found


def drawn(rows: list[int], generator: torch.Generator, prior: bool) -> tuple[Samples, torch.Tensor]:
    parts, targets = [], []
    for row in rows:
        case = population()[row]
        chosen = case.draw(case.log_prior if prior else case.log_policy, SAMPLES, generator)
        contexts = [Context(row, f"p{row}")] * SAMPLES
        parts.append(replace(case.samples(chosen), contexts=contexts))
        targets.append(case.log_target[chosen])
    return Samples.concatenate(parts), torch.cat(targets)


def measured(count: int, generator: torch.Generator) -> dict[str, Measurement | Unavailable]:
    rows = torch.randperm(ROWS, generator=generator)[:count].tolist()
    samples, log_target = drawn(rows, generator, prior=False)
    prior, prior_log_target = drawn(rows, generator, prior=True)
    return evaluate(
        Draw(samples),
        log_target,
        beta=BETA,
        prior_samples=prior,
        prior_log_target=prior_log_target,
        contexts=ROWS,
        ess_floor=5,
    )


def exact(name: str) -> float | None:
    values = [case.exact(BETA, SAMPLES, SAMPLES)[name] for case in population()]
    if name == "eval/perplexity_prior":
        return math.exp(sum(map(math.log, values)) / ROWS)
    return None if isinstance(values[0], Unavailable) else sum(values) / ROWS


@pytest.mark.slow
def test_intervals_hold_the_mean_over_all_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than 32 of 40 intervals of 95% hold with a probability of 0.06% a metric."""
    cheap = Estimate(0.5, 0.1, SAMPLES, SAMPLES - 1.0)
    monkeypatch.setattr(text, "self_bleu_estimate", lambda *_: cheap)
    generator, repetitions = torch.Generator().manual_seed(0), 40
    held: Counter[str] = Counter()
    widths: dict[str, float] = {}
    for _ in range(repetitions):
        for name, metric in measured(MEASURED, generator).items():
            truth = exact_values()[name]
            assert isinstance(metric, Measurement), (name, metric)
            held[name] += truth is None or metric.low - 1e-9 <= truth <= metric.high + 1e-9
            widths[name] = metric.high - metric.low
    assert {name for name, value in held.items() if value < 32} == set()
    # Not for being wide: contexts that are all measured make the interval of the mean narrower.
    whole = measured(ROWS, generator)
    for name in ("eval/kl_target_forward", "eval/log_z", "eval/kl_prior", "eval/reward"):
        assert whole[name].high - whole[name].low < 0.7 * widths[name], name


@cache
def exact_values() -> dict[str, float | None]:
    return {name: exact(name) for name in population()[0].exact(BETA, SAMPLES, SAMPLES)}


@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_the_error_of_a_two_stage_sample_is_its_spread(share: float) -> None:
    """Of 20 contexts, over 1,500 repetitions: the spread is known to 2%."""
    generator = torch.Generator().manual_seed(1)
    count, error = 20, 0.7
    rows = round(count / share)
    found = []
    for _ in range(1500):
        everyone = torch.randn(rows, generator=generator).double()
        chosen = everyone[torch.randperm(rows, generator=generator)[:count]]
        noise = error * torch.randn(count, generator=generator)
        estimates = [Estimate(float(v), error, 50, 49.0) for v in chosen + noise]
        mean = average(estimates, [1 / count] * count, share)
        found.append((mean.value - float(everyone.mean()), mean.error, mean))
    gaps, errors = (torch.tensor([each[i] for each in found]) for i in (0, 1))
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(gaps.std()), rel=0.07)
    ends = [interval(mean, 0.95) for _, _, mean in found]
    truths = [mean.value - gap for gap, _, mean in found]
    missed = sum(not m.low <= t <= m.high for m, t in zip(ends, truths, strict=True))
    assert 0.03 * 1500 < missed < 0.075 * 1500


def test_one_context_of_several_is_no_sample_of_them() -> None:
    with pytest.raises(ValueError, match="single context of several"):
        average([Estimate(1.0, 0.1, 50, 49.0)], [1.0], 0.5)


def test_what_never_varied_may_do_so_in_contexts_that_were_not_measured() -> None:
    samples, log_target = drawn(list(range(MEASURED)), torch.Generator().manual_seed(0), False)
    samples = samples.with_scores({"reward": torch.ones(len(samples)).double()})

    def low(contexts: int | None) -> float:
        found = evaluate(Draw(samples), log_target, beta=BETA, contexts=contexts)["eval/reward"]
        assert isinstance(found, Measurement)
        return found.low

    assert low(None) == low(MEASURED) > 0.98
    assert low(10_000) < 0.8
