"""The bias of non-linear estimates, which averaging over contexts leaves as it is."""

from __future__ import annotations

import math

import pytest
import torch

from klvi.metrics.intervals import Estimate, average, estimate, interval
from klvi.metrics.jackknife import GROUPS, averaged, debiased, kept

CONTEXTS, SAMPLES = 1000, 32
TRUTH = 0.5  # log E[exp x] of a standard normal x


def log_mean(values: torch.Tensor) -> Estimate:
    """log E[exp x] as log Z is estimated, biased by −Var/2N."""
    weights = values.exp()
    mean = weights.mean()
    return estimate(float(mean.log()), weights / mean - 1)


def contexts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(CONTEXTS, SAMPLES, generator=generator, dtype=torch.float64))


def corrected(values: torch.Tensor) -> Estimate:
    without = [log_mean(values[kept(SAMPLES, group)]).value for group in range(GROUPS)]
    return debiased(log_mean(values), without)


@pytest.mark.slow
def test_a_mean_over_contexts_holds_the_truth_only_without_the_bias_of_each() -> None:
    weights = [1 / CONTEXTS] * CONTEXTS
    wholes = [log_mean(values) for values in contexts()]
    plain = average(wholes, weights)
    mended = averaged(wholes, [corrected(values) for values in contexts()], weights, 1.0)
    low = interval(plain, 0.95)
    found = interval(mended, 0.95)
    assert low.high < TRUTH
    assert found.low < TRUTH < found.high
    assert abs(mended.value - TRUTH) < 0.5 * abs(plain.value - TRUTH)


def test_a_mean_is_left_as_it_is() -> None:
    values = contexts()[0]
    without = [float(values[kept(SAMPLES, group)].mean()) for group in range(GROUPS)]
    whole = estimate(float(values.mean()), values)
    assert debiased(whole, without).value == pytest.approx(whole.value, abs=1e-12)


def test_what_is_not_finite_corrects_nothing() -> None:
    whole = log_mean(contexts()[0])
    assert debiased(whole, [1.0, -math.inf]) == whole


def test_each_sample_is_left_out_once() -> None:
    left = [set(range(SAMPLES)) - set(kept(SAMPLES, group).tolist()) for group in range(GROUPS)]
    assert sorted(row for group in left for row in group) == list(range(SAMPLES))
