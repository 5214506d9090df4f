"""The runs below a folder, read as data: nothing is locked, written, followed or acted upon.

Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from klvi.errors import first_line
from klvi.files import CONFIG, MANIFEST, disk_problem, open_regular, read_json
from klvi.runs.lock import is_held
from klvi.runs.stored import read_config, updates_saved

SUMMARY, RECORDS = "summary.json", "metrics.jsonl"
# A folder with one of these is a run's, whole or not; runs below it are none of the user's.
MARKS = {CONFIG, MANIFEST, SUMMARY, RECORDS}
RUNNING, STOPPED, BROKEN = "running", "stopped", "broken"
ENDED = ("finished", "interrupted", "failed")
STATUSES = ("finished", RUNNING, STOPPED, "interrupted", "failed", BROKEN)
TAIL = 1 << 16  # bytes at the end of the records, which hold the last one


@dataclass(frozen=True)
class ListedRun:
    """What the folder of a run tells.

    Attributes:
        status: one of `STATUSES`; of one that ended without a word it is `stopped`.
        reason: why it did not finish, or what is broken.
        started: UTC, as ISO 8601 has it; of a run without a manifest, its last change.
        update: updates done; of a run that has stopped, those from which a resume goes on.
        config: as it is stored; empty where it is broken.
        metrics: of the last evaluation, by name: `{"value", "low", "high", "n"}`, or a `reason`.
        exact: the values that are estimated, where the prior is enumerable.
        seconds: spent on it.
    """

    folder: Path
    status: str
    reason: str | None = None
    started: str | None = None
    update: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    exact: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None


def listed_runs(root: Path) -> Iterator[ListedRun]:
    """The runs in `root` and in the folders below it; links in there are left alone."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                below = list(entries)
        except OSError as error:
            yield ListedRun(folder, BROKEN, disk_problem(error))
            continue
        if not MARKS.isdisjoint(entry.name for entry in below):
            yield read_run(folder)
            continue
        for entry in below:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                folders.append(folder / entry.name)


def read_run(folder: Path) -> ListedRun:
    """A run's folder, whatever is in it."""
    config, wrong = _read(folder / CONFIG)
    summary, broken = _read(folder / SUMMARY)
    started = _started(folder)
    if is_held(folder):
        update = _last_update(folder)
        return ListedRun(folder, RUNNING, None, started, update, config or {})
    status, reason = (summary or {}).get("status"), (summary or {}).get("reason")
    if broken is None and summary is not None and status not in ENDED:
        broken = f"{SUMMARY}: has no status"
    if wrong is None and config is None and status != "failed" and broken is None:
        wrong = f"{CONFIG} is missing"
    problem = wrong or broken
    if problem is not None:
        status, reason = BROKEN, problem
    elif summary is None:
        status = STOPPED
    summary = summary or {}
    update = summary.get("update")
    if status == BROKEN:
        update = None
    elif status != "finished":
        with contextlib.suppress(OSError):
            update = updates_saved(folder)
    return ListedRun(
        folder,
        str(status),
        reason if isinstance(reason, str) else None,
        started,
        update if isinstance(update, int) else None,
        config or {},
        _mapping(summary.get("metrics")),
        _mapping(summary.get("exact")),
        seconds if isinstance(seconds := summary.get("seconds"), int | float) else None,
    )


def _read(file: Path) -> tuple[dict[str, Any] | None, str | None]:
    """What a file of a run holds, None where there is none; and what is wrong with it."""
    try:
        return (read_config(file.parent) if file.name == CONFIG else read_json(file)), None
    except FileNotFoundError:
        return None, None
    except OSError as error:
        error.filename = None
        return None, f"{file.name}: {disk_problem(error)}"
    except ValueError as error:
        return None, f"{file.name}: {first_line(error)}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _started(folder: Path) -> str | None:
    started = _mapping(_read(folder / MANIFEST)[0]).get("started")
    if isinstance(started, str):
        with contextlib.suppress(ValueError, OverflowError, OSError):
            moment = datetime.fromisoformat(started).astimezone(timezone.utc)
            return moment.isoformat(timespec="seconds")
    for name in (CONFIG, SUMMARY, RECORDS):
        with contextlib.suppress(OSError):
            changed = os.lstat(folder / name).st_mtime
            return datetime.fromtimestamp(changed, timezone.utc).isoformat(timespec="seconds")
    return None


def _last_update(folder: Path) -> int | None:
    """Of a run in progress, the last update that it has recorded."""
    with contextlib.suppress(OSError), os.fdopen(open_regular(folder / RECORDS), "rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - TAIL, 0))
        for line in reversed(file.read(TAIL).splitlines()):
            with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError):
                update = json.loads(line)["update"]
                return update if isinstance(update, int) else None
    return None
