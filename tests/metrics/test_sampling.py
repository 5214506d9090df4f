"""Weights and independent units of samples, and what intervals make of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support import made_samples

from klvi.contexts import Context
from klvi.metrics import estimators, text
from klvi.metrics.intervals import average, estimate
from klvi.metrics.jackknife import GROUPS, kept
from klvi.metrics.sampling import Sampling

PAIRS = torch.arange(200).repeat_interleave(2)


def test_a_unit_is_a_replicate_of_a_context() -> None:
    samples = made_samples([1, 2, 3, 4])
    contexts = [Context(0), Context(0), Context(1), Context(1)]
    samples = replace(samples, contexts=contexts, replicate=torch.tensor([5, 5, 5, 6]))
    assert Sampling.of(samples).count(4) == 3
    assert Sampling.of(replace(samples, replicate=torch.arange(4))).independent
    assert Sampling.of(replace(samples, replicate=None)).count(4) == 4


def test_equal_weights_are_none() -> None:
    samples = replace(made_samples([1, 2, 3]), log_weight=torch.full((3,), -7.0))
    assert Sampling.of(samples).independent
    weighted = replace(samples, log_weight=torch.tensor([0.0, math.log(2.0), -math.inf]))
    found = Sampling.of(weighted).weight
    assert found is not None
    assert found.tolist() == pytest.approx([1.0, 2.0, 0.0])
    assert Sampling.of(weighted).size(3) == pytest.approx(9 / 5)


def test_copies_within_a_unit_say_nothing_new() -> None:
    """Every sample twice: the estimate of the single ones."""
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    once = estimate(float(values.mean()), values)
    twice = estimate(once.value, values[PAIRS], units=PAIRS)
    for name in ("error", "degrees", "skewness"):
        assert getattr(twice, name) == pytest.approx(getattr(once, name)), name
    assert twice.n == 400
    assert Sampling(units=PAIRS).estimate(0.0, values[PAIRS]).size == 200


def test_units_of_different_strata_are_apart() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    strata = torch.tensor([0] * 50 + [1] * 150)
    once = estimate(0.0, values + 9 * strata, strata)
    twice = estimate(0.0, (values + 9 * strata)[PAIRS], strata[PAIRS], PAIRS)
    assert twice.error == pytest.approx(once.error)


def test_counts_of_units_add_up_over_contexts() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    parts = [Sampling(units=PAIRS).estimate(0.0, values + k) for k in range(3)]
    found = average(parts, [1 / 3] * 3)
    assert (found.n, found.size) == (1200, 600)


def test_weights_are_self_normalised() -> None:
    values, weight = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 2.0, 0.5]).double()
    found = estimators.mean(values, sampling=Sampling(weight))
    assert found.value == pytest.approx((0.5 + 4.0 + 2.0) / 3)
    spread = estimators.standard_deviation(values, Sampling(torch.tensor([1.0, 1.0, 1.0]).double()))
    assert spread.value == pytest.approx(float(values.double().std()))


def test_infinite_values_of_no_weight_count_for_nothing() -> None:
    values = torch.tensor([1.0, 2.0, -math.inf])
    sampling = Sampling(torch.tensor([1.5, 1.5, 0.0]).double())
    assert estimators.mean(values, sampling=sampling).value == 1.5


def test_corpus_statistics_leave_out_whole_units() -> None:
    """Each sample twice in a unit: no type stands in one sample alone, but in one unit."""
    generator = torch.Generator().manual_seed(0)
    tokens, lengths = torch.randint(0, 60, (200, 4), generator=generator), torch.full((200,), 4)
    once = text.distinct(text.ngrams(tokens, lengths, 2)[1])
    twice = text.distinct(text.ngrams(tokens[PAIRS], lengths[PAIRS], 2)[1], PAIRS)
    assert once is not None
    assert twice is not None
    assert twice.value == pytest.approx(once.value / 2)
    assert twice.error == pytest.approx(once.error / 2, rel=0.05)
    assert (twice.n, twice.size) == (400, 200)


def test_the_jackknife_leaves_out_whole_units() -> None:
    for group in range(GROUPS):
        left = set(range(400)) - set(kept(400, group, PAIRS).tolist())
        assert {row ^ 1 for row in left} == left
