"""The run's folder: `metrics.jsonl`, `samples.jsonl` and `summary.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from klvi.files import append_text, kind_of, naming, read_bytes, to_json, write_whole
from klvi.metrics.measurement import Metric
from klvi.samples import Samples
from klvi.tracking.base import Record, sample_rows

# Bytes of a run's records: weeks of samples come to less.
MAX_RECORDS_BYTES = 1 << 36


class JsonLines:
    """Writes a JSON object per update, per evaluation sample, and a summary at the end.

    `resumed` is the update of the checkpoint from which the run goes on: what an interrupted run
    wrote after it is dropped, as those updates are done again. None starts afresh.
    """

    def __init__(self, resumed: int | None = None) -> None:
        self._resumed = resumed
        self._directory = Path()

    def start(self, config: Mapping[str, Any], directory: Path) -> None:
        """Make the files ready; a summary, which would tell of a finished run, goes."""
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "summary.json").unlink(missing_ok=True)
        for name in ("metrics.jsonl", "samples.jsonl"):
            keep_records(directory / name, -1 if self._resumed is None else self._resumed)

    def log_update(self, record: Record) -> None:
        """Append to `metrics.jsonl`."""
        self._append("metrics.jsonl", to_json(record))

    def log_evaluation(
        self, update: int, measurements: Mapping[str, Metric], samples: Samples
    ) -> None:
        """Append the samples to `samples.jsonl`; the measurements come with the update's record."""
        rows = [to_json({"update": update, **row}) for row in sample_rows(samples)]
        self._append("samples.jsonl", *rows)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        write_whole(self._directory / "summary.json", to_json(summary, indent=2) + "\n")

    def _append(self, name: str, *lines: str) -> None:
        # Closed, and so flushed, each time: a killed run leaves whole lines.
        append_text(self._directory / name, "".join(f"{line}\n" for line in lines))


def keep_records(path: Path, last: int) -> None:
    """Drop a JSON lines file's broken lines and records after update `last`, atomically.

    Raises RunError where it is no regular file.
    """
    with naming(path):
        if kind_of(path) is None:
            return
        text = read_bytes(path, MAX_RECORDS_BYTES).decode("utf-8", errors="replace")
    kept = [f"{line}\n" for line in text.split("\n") if _update_of(line) <= last]
    write_whole(path, "".join(kept))


def _update_of(line: str) -> float:
    """The update that a record is of; infinite for what is no record."""
    try:
        update = json.loads(line)["update"]
    except (ValueError, TypeError, LookupError, RecursionError):  # a run killed while it wrote
        return math.inf
    # NaN compares with nothing, and is dropped with it.
    number = isinstance(update, int | float) and not isinstance(update, bool)
    return update if number else math.inf
