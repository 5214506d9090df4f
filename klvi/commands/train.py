"""`klvi train`: align a prior with a reward, and measure how far it got."""

from __future__ import annotations

from pathlib import Path

from klvi.config.context import Context
from klvi.config.run_folder import run_config
from klvi.config.schema import TrainConfig
from klvi.errors import UserError


def run(config: TrainConfig, context: Context) -> int:
    """Train in the job's folder; a folder that holds this very run, unfinished, goes on."""
    assert context.directory is not None, "train has a folder of its own"
    _check_folder(config, context.directory)

    from klvi.training.run import Run

    Run(config, context.directory).train()
    return 0


def _check_folder(config: TrainConfig, directory: Path) -> None:
    """Raises UserError where the folder holds another run, or this one finished."""
    if not (directory / "config.yaml").exists():
        return
    stored = TrainConfig.model_validate(run_config(directory))
    rollout = config.rollout
    if rollout.samples_per_prompt is None:
        chosen = {"samples_per_prompt": stored.rollout.samples_per_prompt}
        config = config.model_copy(update={"rollout": rollout.model_copy(update=chosen)})
    same = stored == config
    if not same or (directory / "adapter").exists():
        what = "this run, finished" if same else "another run"
        raise UserError(f"hydra.run.dir={directory}: holds {what}; choose another folder")
