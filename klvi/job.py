"""A command as one of Hydra's jobs: run here, or pickled by a launcher into another process."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from klvi.config.compose import to_config
from klvi.config.context import Context
from klvi.errors import UserError
from klvi.terminal import report, report_exception, safe_streams

FAILED = 1


@dataclass(frozen=True)
class Job:
    """Hydra's task function; `codes` gathers the exit codes of the jobs run in this process."""

    command: str
    codes: list[int] = field(default_factory=list)

    @safe_streams()  # in a launcher's process they are not yet
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
        except SystemExit as error:  # a library's, which must not take a sweep's other jobs down
            report_exception()
            reason, code = f"SystemExit: {error}", FAILED
        except Exception as error:  # one job of a sweep must not take the others down
            report_exception()
            reason, code = f"{type(error).__name__}: {error}", FAILED
        # A folder that held a run before keeps that run's summary.
        if reason is not None and new:
            mark_failed(context, reason, refused=code != FAILED)
        self.codes.append(code)
        gc.collect()
        return code


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


def mark_failed(context: Context, reason: str, *, refused: bool) -> None:
    """Leave a failed job's new folder as one: its summary says why.

    Of a run that was `refused` before it had trained nothing is kept but, in a sweep, the summary,
    from which its table is made.
    """
    folder = context.directory
    assert folder is not None
    if (refused or not any(folder.iterdir())) and not _has_trained(folder):
        _empty(folder)
        if context.job_number is None:
            with contextlib.suppress(OSError):  # a link, or the present folder of the process
                folder.rmdir()
                if folder.parent.parent.name == "runs":
                    folder.parent.rmdir()  # where this was the only run of its name
            return
    file = folder / "summary.json"
    summary = json.loads(file.read_text("utf-8")) if file.exists() else {"metrics": {}}
    summary |= {"status": "failed", "reason": reason}
    file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _has_trained(folder: Path) -> bool:
    """Whether a run's folder holds anything that was measured or can be resumed."""
    metrics = folder / "metrics.jsonl"
    return any(folder.glob("checkpoints/step-*")) or (
        metrics.exists() and metrics.stat().st_size > 0
    )


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
