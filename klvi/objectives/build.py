"""An objective from its section."""

from __future__ import annotations

from klvi.objectives.base import Objective
from klvi.objectives.gdc import GDC
from klvi.objectives.ppo import PPO
from klvi.objectives.schema import GDCObjective, KLObjective, RLObjective
from klvi.objectives.schema import Objective as ObjectiveConfig


def build_objective(config: ObjectiveConfig) -> Objective:
    """The configured objective."""
    match config:
        case RLObjective():
            return PPO("rl", config, penalised=False)
        case KLObjective():
            return PPO("kl", config, penalised=True)
        case GDCObjective():
            return GDC(config)
