"""A command as one of Hydra's jobs: run here, or pickled by a launcher into another process."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel

from klvi import interruption
from klvi.commands.context import Context
from klvi.config.compose import to_config
from klvi.engine.kernels.process import prepare_process
from klvi.errors import RunError, UserError
from klvi.files import (
    LEFTOVER,
    WRITTEN,
    kind_of,
    names_in,
    read_text,
    reason_of,
    same_trouble,
    write_whole,
)
from klvi.runs.folder import LOCK_FILES, holds_nothing
from klvi.runs.lock import LostLockError, read_owner
from klvi.schema import LOCATIONS
from klvi.terminal import report, report_exception, safe_streams, tell

FAILED = 1
# What klvi writes into a run's folder.
OWN = {*WRITTEN, *LOCK_FILES}


@dataclass(frozen=True)
class Job:
    """Hydra's task function; `codes` gathers the exit codes of the jobs run in this process."""

    command: str
    codes: list[int] = field(default_factory=list)

    @safe_streams()  # in a launcher's process they are not yet
    def __call__(self, cfg: DictConfig) -> int:
        """Run the command; a failure is told, marked and returned as exit code, not raised.

        Raises Interruption after a signal, which ends a sweep as well.
        """
        context = context_of(self.command)
        with interruption.watched():
            new = context.directory is not None and holds_nothing(context.directory)
            try:
                module = importlib.import_module(f"klvi.commands.{self.command}")
                config = _config(self.command, cfg)
                prepare_process(getattr(config, "threads", None))
                code = int(module.run(config, context))
            except BaseException as error:  # one job of a sweep must not take the others down
                with interruption.held("the summary"):
                    code = _end(error, context, new=new)
            self.codes.append(code)
            gc.collect()
            interruption.check()
            return code


def _end(error: BaseException, context: Context, *, new: bool) -> int:
    """Tell why the job ended, and mark its folder; returns the exit code.

    Raises Interruption where a signal ended it.
    """
    cause = interruption.cause_of(error)
    known = isinstance(error, UserError | OSError | MemoryError)
    code = error.exit_code if isinstance(error, UserError) else FAILED
    if cause is None and isinstance(error, UserError):
        report(error)
    elif cause is None and known:
        tell(f"error: {reason_of(error)}")
    elif cause is None:
        report_exception()
    # A folder that held a run before keeps that run's summary; so does one that is another's now.
    if new and not isinstance(error, LostLockError):
        reason = reason_of(error) if cause is None else str(cause)
        drop = cause is not None or code != FAILED
        status = "failed" if cause is None else "interrupted"
        mark_failed(context, reason, refused=drop, status=status, first=error)
    if cause is not None:
        raise cause
    return code


def _config(command: str, cfg: DictConfig) -> BaseModel:
    """The configuration, whose paths mean the folder where the command was typed.

    `hydra.job.chdir` goes to the job's own folder before.
    """
    present, typed = os.getcwd(), str(HydraConfig.get().runtime.cwd)
    with contextlib.suppress(OSError):  # on another machine there may be none
        os.chdir(typed)
    try:
        config = to_config(command, cfg)
    finally:
        os.chdir(present)
    if present == typed:
        return config
    located = {name: getattr(config, name, None) for name in LOCATIONS}
    moved = {name: os.path.join(typed, path) for name, path in located.items() if path}
    return config.model_copy(update=moved)


def context_of(command: str) -> Context:
    """The present job's context."""
    settings = HydraConfig.get()
    multirun = settings.mode == RunMode.MULTIRUN
    # Hydra puts both in as they are: what looks like an interpolation in a name is none.
    runtime: Any = OmegaConf.to_container(settings.runtime, resolve=False)
    overrides: Any = OmegaConf.to_container(settings.overrides.task, resolve=False)
    return Context(
        directory=Path(runtime["output_dir"]) if multirun or command == "train" else None,
        job_number=settings.job.num if multirun else None,
        sweep_directory=Path(settings.sweep.dir).absolute() if multirun else None,
        overrides=tuple(overrides),
    )


def mark_failed(
    context: Context,
    reason: str,
    *,
    refused: bool,
    status: str = "failed",
    first: BaseException | None = None,
) -> None:
    """Leave a failed job's new folder as one: its summary says why.

    Of a run that was `refused`, or interrupted, before it had trained nothing is kept but, in a
    sweep, the summary, from which its table is made. What the disk refuses is told, unless the
    `first` error told it.
    """
    folder = context.directory
    assert folder is not None
    try:
        owner = read_owner(folder)
        if kind_of(folder) != "a folder" or (owner is not None and owner.process != os.getpid()):
            return  # it is another's, or gone
        if (refused or holds_nothing(folder)) and not _has_trained(folder, status):
            _empty(folder)
            if context.job_number is None:
                with contextlib.suppress(OSError):  # a link, or the present folder of the process
                    folder.rmdir()
                    if folder.parent.parent.name == "runs":
                        folder.parent.rmdir()  # where this was the only run of its name
                return
        file = folder / "summary.json"
        summary = {"status": status, "reason": reason, "metrics": {}} | _summary(file)
        write_whole(file, json.dumps(summary, indent=2) + "\n")
    except Exception as error:
        if not same_trouble(error, first or RunError(reason)):
            tell(f"error: {reason_of(error)}")


def _summary(file: Path) -> dict[str, Any]:
    """What a run has written of its end; nothing where it has not come to that."""
    try:
        summary = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError):
        return {}
    return summary if isinstance(summary, dict) and summary.get("status") != "finished" else {}


def _has_trained(folder: Path, status: str) -> bool:
    """Whether a run's folder holds anything that was measured or can be resumed.

    What was measured before the first update is worth nothing to whom interrupts it there.
    """
    if any(name.startswith("step-") for name in names_in(folder / "checkpoints")):
        return True
    with contextlib.suppress(OSError, ValueError):
        records = len(read_text(folder / "metrics.jsonl").splitlines())
        return records > (1 if status == "interrupted" else 0)
    return False


def _empty(folder: Path) -> None:
    """Remove what klvi has written into a folder that was new; what others have put there stays."""
    for path in folder.iterdir():
        if path.name not in OWN and not LEFTOVER.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
