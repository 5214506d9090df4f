"""Targets, the modelling half: which distribution is wanted, as log P = log π0 + log evidence."""

from __future__ import annotations

from klvi.config import schema
from klvi.targets.base import Target
from klvi.targets.constraint import Constraint
from klvi.targets.posterior import Posterior

__all__ = ["Constraint", "Posterior", "Target", "build_target"]


def build_target(config: schema.Target, beta: float) -> Target:
    """The target that `config` describes, at temperature `beta`."""
    match config:
        case schema.PosteriorTarget():
            return Posterior(beta)
        case schema.ConstraintTarget():
            return Constraint(config.threshold, beta)
