"""Whether a place can be written, before anything is spent on what goes there."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

from klvi.files.disk import REMEDIES, TEMPORARY, disk_problem, kind_of
from klvi.files.reading import SAFELY

MEGABYTE = 1_000_000
CONFIG, MANIFEST, TARGET = "config.yaml", "manifest.json", "target.json"
# What klvi writes at the top of a run's folder.
WRITTEN = {
    **dict.fromkeys((CONFIG, MANIFEST, TARGET, "summary.json", "run.log"), "a file"),
    **dict.fromkeys(("metrics.jsonl", "samples.jsonl"), "a file"),
    **dict.fromkeys(("checkpoints", "adapter", "wandb"), "a folder"),
}


def new_file_problem(path: str, *, overwrite: bool = False) -> str | None:
    """Why a file cannot be written at `path` without loss; None where it can."""
    place = Path(path).expanduser()
    if not path:
        return "is empty; give the name of a file"
    if path.endswith("/"):
        return "names a folder; give the name of a file"
    try:
        if _is_a_runs_own(place):
            return "belongs to the run in whose folder it is; give another name"
        kind = kind_of(place)
        if kind == "a file" and not overwrite:
            return "exists; give another name, or overwrite=true"
        if kind not in {None, "a file"}:
            return f"is {kind}; give the name of a new file"
        return _place_problem(place.parent)
    except OSError as error:
        return disk_problem(error)


def new_folder_problem(path: str) -> str | None:
    """Why a folder cannot be written at `path` without loss; None where it can."""
    if not path:
        return "is empty; give the name of a new folder"
    place = Path(path).expanduser()
    try:
        kind = kind_of(place)
        if kind not in {None, "a folder"}:
            return f"is {kind}; choose a new folder"
        if kind == "a folder" and any(place.iterdir()):
            return "exists and is not empty; choose a new folder"
        return _place_problem(place)
    except OSError as error:
        return disk_problem(error)


def _is_a_runs_own(place: Path) -> bool:
    """Whether a file is one that klvi writes into a run's folder, and the folder a run's."""
    place = place.absolute()
    return any(
        place.relative_to(folder).parts[0] in WRITTEN
        and all(kind_of(folder / name) == "a file" for name in (CONFIG, MANIFEST))
        for folder in place.parents
    )


def _place_problem(folder: Path) -> str | None:
    """Why nothing can be written into a folder, or where it is to be made; None where it can."""
    folder = folder.absolute()
    above = next(f for f in (folder, *folder.parents) if kind_of(f) is not None)
    if not above.is_dir():
        return f"{above} is not a folder"
    probe = above / TEMPORARY.format(secrets.token_hex(6))
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY, 0o600))
    except FileNotFoundError:  # as /proc says
        return f"{above} takes no new files; choose another place"
    except OSError as error:
        error.filename = None
        return disk_problem(error, above)
    probe.unlink()
    return None


def room_problem(folder: Path, needed: int) -> str | None:
    """Why `needed` bytes evidently find no room in a folder, made or not; None where they may.

    What a quota or another process takes is known only when it is written.
    """
    try:
        above = next(f for f in (folder, *folder.absolute().parents) if kind_of(f) is not None)
        disk = shutil.disk_usage(above)
    except OSError:
        return None
    if disk.free >= needed or disk.total == 0:  # 0: a file system that doesn't tell
        return None
    needs, free = (f"{size / MEGABYTE:,.1f} MB" for size in (needed, disk.free))
    return f"{folder}: needs {needs}, and {free} are free; {REMEDIES[errno.ENOSPC]}"


def foreign_entry(folder: Path) -> str | None:
    """What in a run's folder is not as klvi writes it, such as a link; None: nothing.

    wandb's own folder, in which there are links, is left out, but is to be a folder itself.
    """
    for name, expected in WRITTEN.items():
        kind = kind_of(folder / name)
        if kind not in {expected, None}:
            return f"{name} is {kind}, not {expected}, which klvi neither reads nor writes"
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            kind = kind_of(path)
            if kind not in {"a file", "a folder", None}:
                return f"{path.relative_to(folder)} is {kind}, which klvi neither reads nor writes"
        if Path(place) == folder:
            folders[:] = [name for name in folders if name != "wandb"]
    return None
