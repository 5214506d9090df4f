"""A target from its section."""

from __future__ import annotations

from klvi.rewards.base import Reward
from klvi.targets import schema
from klvi.targets.base import Target
from klvi.targets.constraint import Constraint
from klvi.targets.posterior import Posterior


def build_target(config: schema.Target, reward: Reward, beta: float) -> Target:
    """The target that `config` describes, of `reward`, at temperature `beta`."""
    match config:
        case schema.PosteriorTarget():
            return Posterior(reward, beta)
        case schema.ConstraintTarget():
            return Constraint(reward, config.threshold, beta)
