"""How far samples of the prior reach."""

from __future__ import annotations

import math
import re

import pytest
import torch

from klvi.metrics.path import effective_at, furthest, reach

NORMAL = torch.randn(1000, generator=torch.Generator().manual_seed(0)).double()


def test_effective_samples_fall_along_the_way() -> None:
    sizes = [effective_at(3 * NORMAL, share) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 1000
    weight = (1.5 * NORMAL).exp()
    assert sizes[2] == pytest.approx(float(weight.sum() ** 2 / weight.square().sum()))


def test_the_furthest_share_carries_the_floor() -> None:
    share = furthest(4 * NORMAL, 30)
    assert 0 < share < 1
    assert effective_at(4 * NORMAL, share) == pytest.approx(30, rel=1e-6)
    assert furthest(0.1 * NORMAL, 30) == 1
    assert furthest(torch.full((10,), -torch.inf), 2) == 0


def test_a_hard_constraint_dies_at_once_and_has_a_base_rate() -> None:
    potential = torch.full((1000,), -torch.inf)
    potential[:7] = 0.0
    assert [effective_at(potential, share) for share in (0.01, 1)] == pytest.approx([7, 7])
    said = "7 of 1000 samples of the prior are in the target at all, a base rate of 0.007"
    assert reach(potential, 30) == said


def test_the_words_name_share_and_divergence() -> None:
    potential = 4 * NORMAL
    effective = effective_at(potential, 1.0)
    assert reach(potential, 30) == (
        f"1000 samples of the prior carry 30 effective ones up to {furthest(potential, 30):.2g} of "
        f"the way from prior to target, log(1+χ²) ≥ {math.log(1000 / effective):.1f}"
    )
    assert re.match(
        r"1000 samples of the prior, which alone would carry 9\d\d effective ones, miss what the "
        r"policy's show of the target, log\(1\+χ²\) ≥ 0\.0",
        reach(0.1 * NORMAL, 30),
    )
