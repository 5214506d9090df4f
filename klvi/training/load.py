"""A run's policy, read back from its folder."""

from __future__ import annotations

from pathlib import Path

from klvi.config.quoting import command
from klvi.config.schema import EvalConfig, SampleConfig
from klvi.errors import UserError
from klvi.training.checkpoint import Checkpoints
from klvi.training.evaluation import Evaluator
from klvi.training.run import (
    ADAPTER_FOLDER,
    CHECKPOINT_FOLDER,
    assemble_evaluator,
)


def load_policy(config: EvalConfig | SampleConfig) -> tuple[Evaluator, str]:
    """An evaluator of the run's policy, or of the prior without a run; and what it is of.

    Raises UserError where the run has not yet saved a policy.
    """
    if config.run is None:
        return assemble_evaluator(config, adapted=False), f"prior {config.model.name}"
    folder = find_adapter(Path(config.run).expanduser())
    evaluator = assemble_evaluator(config, adapted=True)
    evaluator.policy.load_adapter(folder)
    return evaluator, str(folder)


def find_adapter(run: Path) -> Path:
    """The folder of a run's final adapter, or of its newest checkpoint while it has none."""
    final = run / ADAPTER_FOLDER
    if final.is_dir():
        return final
    checkpoints = Checkpoints(run / CHECKPOINT_FOLDER)
    steps = checkpoints.steps()
    if not steps:
        raise UserError(
            f"run={run}: has neither a final adapter nor a checkpoint; {command('resume', run=run)}"
        )
    return checkpoints.directory / f"step-{steps[-1]}"
