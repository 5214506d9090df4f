"""INFERENCE by training: pure losses, and what each needs from a rollout."""

from klvi.config.schema import GDCObjective, KLObjective, RLObjective
from klvi.config.schema import Objective as ObjectiveConfig
from klvi.objectives.base import Objective, Prediction, Signals, Statistics, Totals
from klvi.objectives.gdc import GDC
from klvi.objectives.ppo import PPO


def build_objective(config: ObjectiveConfig) -> Objective:
    """The configured objective."""
    match config:
        case RLObjective():
            return PPO("rl", config, penalised=False)
        case KLObjective():
            return PPO("kl", config, penalised=True)
        case GDCObjective():
            return GDC(config)


__all__ = [
    "GDC",
    "PPO",
    "Objective",
    "Prediction",
    "Signals",
    "Statistics",
    "Totals",
    "build_objective",
]
