"""`klvi resume`: go on from a run's last checkpoint."""

from __future__ import annotations

from pathlib import Path

from klvi.config.context import Context
from klvi.config.run_folder import run_config
from klvi.config.schema import ResumeConfig, TrainConfig


def run(config: ResumeConfig, context: Context) -> int:
    """Continue the run in its own folder; a finished one has nothing left to do."""
    assert config.run is not None, "checked with the command line"
    directory = Path(config.run).expanduser()
    stored = TrainConfig.model_validate(run_config(directory))
    if (directory / "adapter").exists():
        print(f"{directory}: finished after {stored.updates} updates, nothing to resume")
        return 0

    from klvi.training.run import Run

    Run(stored, directory).train()
    return 0
