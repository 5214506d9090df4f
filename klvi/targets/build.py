"""A target from its section."""

from __future__ import annotations

from klvi.policy.prior import Prior
from klvi.registry import build
from klvi.rewards.base import Reward
from klvi.targets.base import Target
from klvi.targets.schema import TargetSection


def build_target(
    section: TargetSection,
    reward: Reward,
    beta: float,
    device: str = "cpu",
    prior: Prior | None = None,
) -> Target:
    """The target that `section` describes, of `reward`, at temperature `beta`.

    Models of rewards that it has beside `reward` are on `device` by default. Targets that are made
    of a model's own probabilities take the `prior`.
    """
    target: Target = build(section, reward=reward, beta=beta, run_device=device, prior=prior)
    return target
