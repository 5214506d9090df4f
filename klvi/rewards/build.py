"""A reward from its section."""

from __future__ import annotations

from klvi.registry import build
from klvi.rewards.base import Reward
from klvi.rewards.schema import RewardSection


def build_reward(section: RewardSection, device: str) -> Reward:
    """The reward that `section` describes, with its model, if any, on `device` by default.

    Raises `UserError` where a file, function, model or label does not exist.
    """
    reward: Reward = build(section, run_device=device)
    return reward
