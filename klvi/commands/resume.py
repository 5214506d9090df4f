"""`klvi resume`: go on from a run's last checkpoint, to its end or to another one."""

from __future__ import annotations

from pathlib import Path

from klvi import __version__ as VERSION
from klvi.commands.context import Context
from klvi.commands.schema import ResumeConfig
from klvi.config.stored_run import is_finished, run_config
from klvi.config.trust import untrusted_to_resume
from klvi.errors import UserError
from klvi.runs.folder import claimed
from klvi.runs.manifest import changes
from klvi.runs.schema import TrainConfig
from klvi.runs.stored import updates_saved
from klvi.terminal import put, tell


def run(config: ResumeConfig, context: Context) -> int:
    """Continue the run in its own folder; a finished one has nothing left to do.

    With `updates` the run gets another end, a finished run too. Learning rate and annealing go on
    as in a run of that many updates. Its final adapter stays until there is another.
    """
    assert config.run is not None, "checked with the command line"
    directory = Path(config.run).expanduser()
    run_config(directory)  # what is no run's folder is left alone
    with claimed(directory, "run", tell) as lock:
        values = run_config(directory)
        # It may have become another one while its lock was waited for.
        refused = [] if config.trust else untrusted_to_resume(config.run, values)
        if refused:
            raise UserError(*refused)
        stored = TrainConfig.model_validate(values)
        wanted = stored.updates if config.updates is None else config.updates
        finished = is_finished(directory)
        if finished and wanted == stored.updates:
            put(f"{directory}: finished after {stored.updates} updates, nothing to resume")
            return 0
        accepted = _changes(directory, stored, accept=config.changed)
        _check_updates(directory, wanted, finished)

        from klvi.engine.kernels.process import prepare_process
        from klvi.runs.assembly import assemble_run

        prepare_process(stored.threads)
        longer = stored.model_copy(update={"updates": wanted})
        assemble_run(longer, directory, lock=lock, accepted=accepted).train()
    return 0


def _changes(directory: Path, stored: TrainConfig, *, accept: bool) -> list[str] | None:
    """What makes the run and is no more as it was, where the user goes on all the same.

    Raises UserError for it where not.
    """
    changed = changes(directory, stored.model_dump(mode="json"), VERSION)
    if accept:
        for line in changed:
            tell(f"warning: {line} since the run began")
        return changed
    if changed:
        remedy = "since the run began; to go on with it all the same, add changed=true"
        raise UserError(*(f"run={directory}: {line} {remedy}" for line in changed))
    return None


def _check_updates(directory: Path, wanted: int, finished: bool) -> None:
    """Raises UserError where the run cannot end after `wanted` updates, or not start from here."""
    saved = updates_saved(directory)
    if wanted < saved:
        raise UserError(
            f"updates={wanted}: the run has done {saved} updates; give at least {saved}"
        )
    if finished and saved == 0:
        raise UserError(
            f"run={directory}: its checkpoints are gone, so that it cannot go on; "
            "klvi train starts a new run"
        )
