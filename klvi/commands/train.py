"""`klvi train`: align a prior with a reward, and measure how far it got."""

from __future__ import annotations

from pathlib import Path

from klvi import __version__ as VERSION
from klvi.commands.context import Context
from klvi.config.stored_run import is_finished, run_config
from klvi.errors import UserError
from klvi.quoting import command
from klvi.runs.choices import same_run
from klvi.runs.folder import claimed
from klvi.runs.manifest import changes
from klvi.runs.schema import TrainConfig
from klvi.terminal import tell


def run(config: TrainConfig, context: Context) -> int:
    """Train in the job's folder; a folder that holds this very run, unfinished, goes on."""
    assert context.directory is not None, "train has a folder of its own"
    with claimed(context.directory, "hydra.run.dir", tell) as lock:
        _check_folder(config, context.directory)

        from klvi.runs.assembly import assemble_run

        assemble_run(config, context.directory, lock=lock).train()
    return 0


def _check_folder(config: TrainConfig, directory: Path) -> None:
    """Raises UserError where the folder holds another run, or this one finished."""
    if not (directory / "config.yaml").exists():
        return
    stored = TrainConfig.model_validate(run_config(directory))
    same = same_run(config, stored)
    if not same or is_finished(directory):
        what = "this run, finished" if same else "another run"
        raise UserError(f"hydra.run.dir={directory}: holds {what}; choose another folder")
    changed = changes(directory, stored.model_dump(mode="json"), VERSION)
    if changed:
        remedy = f"since the run began; {command('resume', run=directory)} changed=true goes on"
        raise UserError(*(f"hydra.run.dir={directory}: {line} {remedy}" for line in changed))
