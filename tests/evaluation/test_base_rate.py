"""What the first samples say of a reward that they never meet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from klvi.evaluation.base_rate import base_rate_bound, unmet_reward


def allowed(reward: Tensor) -> Tensor:
    """The potential of a constraint."""
    return torch.where(reward >= 0.5, 0.0, -torch.inf)


@pytest.mark.parametrize("count", [30, 512, 100_000])
def test_the_bound_is_the_rate_at_which_none_comes_up_in_one_of_twenty(count: int) -> None:
    rate = base_rate_bound(count)
    assert (1 - rate) ** count == pytest.approx(0.05)
    assert rate == pytest.approx(3 / count, rel=0.06)


def test_a_reward_that_tells_nothing_apart_is_a_line() -> None:
    reward = torch.zeros(512)
    line = unmet_reward(reward, torch.zeros(len(reward)))
    assert line is not None
    for word in ("reward 0", "0.0058", "prompts=file", "reward=sum"):
        assert word in line


def test_one_sample_that_differs_is_enough() -> None:
    reward = torch.zeros(512)
    reward[17] = 1e-3
    assert unmet_reward(reward, torch.zeros(len(reward))) is None


def test_a_constraint_that_no_sample_satisfies_is_a_line() -> None:
    reward = torch.rand(100, generator=torch.Generator().manual_seed(0)) / 2.1
    line = unmet_reward(reward, allowed(reward))
    assert line is not None
    assert "0.03" in line
    assert "target.threshold" in line
    reward[0] = 0.5
    assert unmet_reward(reward, allowed(reward)) is None
