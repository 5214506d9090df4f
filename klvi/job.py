"""A command as one of Hydra's jobs: run here, or pickled by a launcher into another process."""

from __future__ import annotations

import gc
import importlib
import json
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from klvi.config.compose import to_config
from klvi.config.context import Context
from klvi.errors import UserError

FAILED = 1


@dataclass(frozen=True)
class Job:
    """Hydra's task function; `codes` gathers the exit codes of the jobs run in this process."""

    command: str
    codes: list[int] = field(default_factory=list)

    def __call__(self, cfg: DictConfig) -> int:
        """Run the command; a failure is told, marked and returned as exit code, not raised."""
        context = context_of(self.command)
        new = context.directory is not None and not any(context.directory.iterdir())
        reason = None
        try:
            module = importlib.import_module(f"klvi.commands.{self.command}")
            code = int(module.run(to_config(self.command, cfg), context))
        except UserError as error:
            report(error)
            reason, code = str(error), error.exit_code
        except Exception as error:  # one job of a sweep must not take the others down
            traceback.print_exc()
            reason, code = f"{type(error).__name__}: {error}", FAILED
        # A folder that held a run before keeps that run's summary.
        if reason is not None and new:
            mark_failed(context, reason)
        self.codes.append(code)
        gc.collect()
        return code


def report(error: UserError) -> None:
    """Tell the user, a line per problem."""
    for problem in error.problems:
        print(f"klvi: error: {problem}", file=sys.stderr)


def context_of(command: str) -> Context:
    """The present job's context."""
    settings = HydraConfig.get()
    multirun = settings.mode == RunMode.MULTIRUN
    return Context(
        directory=Path(settings.runtime.output_dir) if multirun or command == "train" else None,
        job_number=settings.job.num if multirun else None,
        sweep_directory=Path(settings.sweep.dir).absolute() if multirun else None,
        overrides=tuple(settings.overrides.task),
    )


def mark_failed(context: Context, reason: str) -> None:
    """Leave a failed job's folder as one: its summary says why; an empty folder goes."""
    folder = context.directory
    assert folder is not None
    if context.job_number is None and not any(folder.iterdir()):
        folder.rmdir()
        return
    file = folder / "summary.json"
    summary = json.loads(file.read_text("utf-8")) if file.exists() else {"metrics": {}}
    summary |= {"status": "failed", "reason": reason}
    file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
