"""The folder that klvi writes in: new, empty, or a run of its own, and locked meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from klvi.errors import UserError
from klvi.files import (
    CONFIG,
    LEFTOVER,
    foreign_entry,
    kind_of,
    naming,
    new_folder_problem,
    remove_leftovers,
)
from klvi.runs.lock import LOCK, OWNER, FolderLock, locked

SWEEP = "multirun.yaml"
LOCK_FILES = {LOCK, OWNER}


def folder_problem(folder: Path) -> str | None:
    """Why klvi must not write into `folder`; None for a new one, an empty one and a run's."""
    with naming(folder, UserError):
        if not folder.is_dir() or holds_nothing(folder):
            return new_folder_problem(str(folder)) if not folder.is_dir() else None
        if kind_of(folder / CONFIG) != "a file":
            return "is not empty, and no run of klvi's; choose a new folder"
        return foreign_entry(folder)


def sweep_problem(folder: Path) -> str | None:
    """Why a sweep must not write into `folder`; None for a new one, an empty one and a sweep's."""
    with naming(folder, UserError):
        if not folder.is_dir():
            return new_folder_problem(str(folder))
        if holds_nothing(folder):
            return None
        others = [path.name for path in folder.iterdir() if not path.name.isdecimal()]
        if set(others) - {SWEEP} or kind_of(folder / SWEEP) not in {None, "a file"}:
            return "is not empty, and no sweep of klvi's; choose a new folder"
    return None


def holds_nothing(folder: Path) -> bool:
    """Whether a folder has nothing in it but what a lock, or a writer that was killed, left."""
    with naming(folder, UserError):
        names = {path.name for path in folder.iterdir()} - LOCK_FILES
    return all(LEFTOVER.fullmatch(name) for name in names)


@contextlib.contextmanager
def claimed(folder: Path, key: str, tell: Callable[[str], None]) -> Iterator[FolderLock]:
    """Within, `folder` is this process's to write in; `key` is its key of the configuration.

    Raises UserError where it holds something that is no run, or another process writes in it.
    """
    problem = folder_problem(folder)
    if problem:
        raise UserError(f"{key}={folder}: {problem}")
    with naming(folder, UserError):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, tell) as lock:
        remove_leftovers(folder)
        yield lock
