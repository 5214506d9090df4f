"""Weights & Biases beside the console and the run's folder."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from klvi.files import kind_of, naming, read_bytes, write_whole
from klvi.metrics.measurement import Metric
from klvi.samples import Samples
from klvi.tracking.base import FINISHED, Record, sample_rows
from klvi.tracking.output import Output

TABLE_ROWS = 64
MAX_ID = 1 << 10
MAX_START_SECONDS, MAX_UPLOAD_SECONDS = 30.0, 600.0  # seconds that a run without network may lose


class WandbTracker:
    """Mirrors a run to wandb; whatever fails there is reported once and costs only the mirror."""

    def __init__(
        self,
        output: Output,
        *,
        project: str = "klvi",
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        mode: Literal["online", "offline", "disabled"] | None = None,
    ) -> None:
        self._output = output
        self._project, self._entity, self._mode = project, entity, mode
        self._group, self._job_type, self._tags = group, job_type, list(tags)
        self._run: Any = None

    def start(self, config: Mapping[str, Any], directory: Path) -> None:
        """Begin the wandb run, or go on with that of the folder."""
        self._survive("start", lambda: self._init(config, directory))

    def log_update(self, record: Record) -> None:
        """Log the record's numbers."""
        numbers = {name: v for name, v in record.items() if isinstance(v, int | float)}
        self._log(lambda: numbers)

    def log_evaluation(
        self, update: int, measurements: Mapping[str, Metric], samples: Samples
    ) -> None:
        """Log a table of samples; the measurements come with the update's record."""
        self._log(lambda: {"update": update, "samples": _table(samples)})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the wandb run, as failed unless all went well."""
        if self._run is None:
            return
        code = 0 if summary["status"] == FINISHED else 1
        self._survive("finish", lambda: self._run.finish(exit_code=code))
        self._run = None

    def _log(self, values: Callable[[], dict[str, Any]]) -> None:
        if self._run is not None:
            self._survive("log", lambda: self._run.log(values()))

    def _survive(self, stage: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # training must not depend on a mirror
            self._run = None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._output.print(f"wandb failed at {stage} and is off for this run: {reason}")

    def _init(self, config: Mapping[str, Any], directory: Path) -> None:
        import wandb

        # Set up first, so that the login is silent too.
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=MAX_START_SECONDS,
            finish_timeout=MAX_UPLOAD_SECONDS,
        )
        mode = self._mode or wandb.setup(settings).settings.mode
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("no account: run `wandb login`, or set WANDB_MODE=offline")
        directory.mkdir(parents=True, exist_ok=True)
        objective = config["objective"]["name"]
        run = wandb.init(
            project=self._project,
            entity=self._entity,
            group=self._group or config["name"],
            job_type=self._job_type or objective,
            tags=self._tags,
            name=f"{objective}-{directory.name}",
            id=_stable_id(directory),
            resume="allow",
            config=dict(config),
            dir=directory,
            mode=mode,
            reinit="finish_previous",
            settings=settings,
        )
        # Updates done again after a resume fall on their places, whatever wandb's own step says.
        run.define_metric("update")
        run.define_metric("*", step_metric="update")
        self._run = run


def _stable_id(directory: Path) -> str:
    """The wandb run's id, kept in the run's folder so that a resume goes on with the same run."""
    path = directory / "wandb" / "run-id"
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        known = read_bytes(path, MAX_ID).strip() if kind_of(path) is not None else b""
        if re.fullmatch(rb"[0-9A-Za-z_-]+", known):
            return known.decode()
    made = uuid.uuid4().hex[:12]
    write_whole(path, made)
    return made


def _table(samples: Samples) -> Any:
    import wandb

    rows = sample_rows(samples)[:TABLE_ROWS]
    return wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
