"""pass@k is unbiased, covers, and refuses what it is not of."""

from __future__ import annotations

import math

import pytest
import torch

from klvi.metrics.intervals import average
from klvi.metrics.metric import Scope, unit_interval
from klvi.metrics.passing import pass_at, pass_estimate, pass_share

SCOPE = Scope(confidence=0.95, beta=1.0, width=8, ranges={}, ess_floor=30)
REPETITIONS = 1000


@pytest.mark.parametrize("k", [1, 3, 10])
def test_its_mean_over_all_draws_is_the_chance_of_one_success_in_k(k: int) -> None:
    n, p = 10, 0.2
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    mean = sum(chance * pass_share(n, c, k) for c, chance in enumerate(chances))
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    with pytest.raises(ValueError, match="pass@11 of 10"):
        pass_share(n, 2, 11)


@pytest.mark.parametrize(("p", "k"), [(0.3, 1), (0.05, 4), (0.05, 16), (0.3, 4), (0.9, 2)])
def test_its_interval_covers_for_one_prompt(p: float, k: int) -> None:
    """Of 64 samples: an interval of 95% misses more than 7.5% of 1,000 one time in 4,000."""
    generator = torch.Generator().manual_seed(0)
    rewards = (torch.rand(REPETITIONS, 64, generator=generator) < p).double()
    truth, missed = 1 - (1 - p) ** k, 0
    for reward in rewards:
        found = unit_interval(pass_estimate(reward, k), SCOPE)
        missed += not found.low <= truth <= found.high
    assert missed <= 0.075 * REPETITIONS


@pytest.mark.slow
def test_its_interval_covers_the_mean_over_prompts_of_which_some_are_drawn() -> None:
    """12 of 60 prompts, 16 samples each: as above, 1,000 repetitions."""
    generator = torch.Generator().manual_seed(1)
    chances = torch.rand(60, generator=generator) ** 2
    truth = float((1 - (1 - chances) ** 4).mean())
    missed = 0
    for _ in range(REPETITIONS):
        drawn = chances[torch.randperm(60, generator=generator)[:12]]
        rewards = (torch.rand(12, 16, generator=generator) < drawn[:, None]).double()
        mean = average([pass_estimate(reward, 4) for reward in rewards], [1 / 12] * 12, 0.2)
        found = unit_interval(mean, SCOPE)
        missed += not found.low <= truth <= found.high
    assert missed <= 0.075 * REPETITIONS


def test_what_no_sample_showed_leaves_room_for_k_times_as_much() -> None:
    none = torch.zeros(64)
    once, often = (unit_interval(pass_estimate(none, k), SCOPE) for k in (1, 16))
    assert once.value == often.value == 0
    assert 0.03 < once.high < 0.1
    assert often.high > 8 * once.high


def test_of_many_samples_nearly_all_of_which_pass_it_is_nearly_one() -> None:
    """Its error, of about 10^-108, has squares whose squares no number holds."""
    reward = torch.ones(64).double()
    reward[0] = 0.0
    found = unit_interval(pass_estimate(reward, 61), SCOPE)
    assert found.value == 1 == found.high


def test_the_metric_says_what_it_is_of() -> None:
    spec = pass_at(4)
    assert spec.name == "eval/pass_at_4"
    assert spec.needs == {"equal weights", "score/reward"}
