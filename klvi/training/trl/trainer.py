"""What runs the loop: the only place that asks what the installed TRL has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from klvi.objectives.base import Objective
from klvi.training.loop import Loop


@dataclass(frozen=True)
class Trainer:
    """What surrounds the loop.

    Attributes:
        name: as the manifest has it.
        run: does the updates that are left, of a run in a folder.
        note: what the user should know of it, a line.
    """

    name: str
    run: Callable[[Loop, Path], None]
    note: str | None = None


def trainer_for(objective: Objective) -> Trainer:
    """TRL's trainer where the objective has one and TRL has it still; 1.13 removed PPO's."""
    if objective.trainer is None:
        return Trainer("klvi", _alone)
    if has_ppo():
        return Trainer("trl.experimental.ppo", _in_trl)
    note = f"TRL {version('trl')} has no PPO trainer: klvi's PPO runs on accelerate, without TRL's"
    return Trainer("accelerate", _on_accelerate, f"{note} callbacks")


def has_ppo() -> bool:
    """Whether the installed TRL has PPO; TRL itself, which takes seconds, is not imported."""
    spec = find_spec("trl")
    places = [] if spec is None else spec.submodule_search_locations or []
    return any(Path(place, "experimental", "ppo").is_dir() for place in places)


def _alone(loop: Loop, directory: Path) -> None:
    loop.run()


def _in_trl(loop: Loop, directory: Path) -> None:
    from klvi.training.trl.ppo import SharedTrunkPPOTrainer

    SharedTrunkPPOTrainer(loop, directory).train()


def _on_accelerate(loop: Loop, directory: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=loop.policy.device.type == "cpu")
    optimisation = loop.optimisation
    optimisation.optimizer = accelerator.prepare_optimizer(optimisation.optimizer)
    optimisation.backward = accelerator.backward
    loop.run()
