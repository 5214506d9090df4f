"""Targets, the modelling half: which distribution is wanted, as log P = log π0 + log potential."""

from __future__ import annotations

from klvi.config import schema
from klvi.rewards.base import Reward
from klvi.targets.base import Target
from klvi.targets.constraint import Constraint
from klvi.targets.posterior import Posterior

__all__ = ["Constraint", "Posterior", "Target", "build_target"]


def build_target(config: schema.Target, reward: Reward, beta: float) -> Target:
    """The target that `config` describes, of `reward`, at temperature `beta`."""
    match config:
        case schema.PosteriorTarget():
            return Posterior(reward, beta)
        case schema.ConstraintTarget():
            return Constraint(reward, config.threshold, beta)
