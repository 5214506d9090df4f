"""What lies at a path, and errors of the disk in words that name the path."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from klvi.errors import RunError, UserError, described

TEMPORARY, LEFTOVER = ".klvi-{}.tmp", re.compile(r"\.klvi-[0-9a-f]{12}\.tmp")
RUST_ERROR = re.compile(r"\(os error ([0-9]+)\)")
REMEDIES = {
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some of your quota, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose a place that you may read and write",
    errno.EPERM: "choose a place that you may read and write",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close what holds so many files open",
    errno.ENOENT: "it, or its folder, is not there (any more)",
    errno.ENOTDIR: "a part of the path is a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "it is a link, which klvi does not follow here",
}
KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(path: Path) -> str | None:
    """What lies at `path`, itself and not what it links to: "a file", "a link", …; None: nothing.

    Raises OSError where that cannot be told.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    return KINDS.get(stat.S_IFMT(mode), "a file")


def disk_problem(error: OSError, path: Path | str | None = None) -> str:
    """An error of the disk in one line: the path, what happened, and the remedy.

    `path` is named where the error itself knows none, or but one of klvi's temporary files.
    """
    known = error.filename if isinstance(error.filename, str) else path
    if path is not None and TEMPORARY.partition("{}")[0] in str(known):
        known = path
    reason = error.strerror or str(error) or type(error).__name__
    remedy = REMEDIES.get(error.errno or 0)
    place = f"{known}: " if known is not None else ""
    return f"{place}{reason}" + (f"; {remedy}" if remedy else "")


def reason_of(error: BaseException) -> str:
    """What an exception says, in one line, and with its kind where it is no UserError."""
    if isinstance(error, UserError):
        return "; ".join(error.problems)
    if isinstance(error, OSError):
        return disk_problem(error)
    return described(error)


@contextlib.contextmanager
def naming(path: Path | str, kind: type[UserError] = RunError) -> Iterator[None]:
    """Turns whatever the disk refuses within into one line that names `path`.

    torch and the libraries that are written in Rust have errors of their own for it.
    """
    try:
        yield
    except Exception as error:
        refused = _of_the_disk(error)
        if refused is not None:
            raise kind(disk_problem(refused, path)) from refused
        if type(error).__name__ != "SafetensorError":
            raise
        raise kind(f"{path}: {' '.join(str(error).split())}") from error


def _of_the_disk(error: BaseException) -> OSError | None:
    """What the disk refused, also where a library tells it in its own way; None: nothing."""
    if isinstance(error, OSError):
        return error
    told = RUST_ERROR.search(str(error))
    if told is not None:
        number = int(told[1])
        return OSError(number, os.strerror(number))
    if isinstance(error, RuntimeError) and "unexpected pos" in str(error):  # torch's, at its end
        return error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error))
    return None


def errno_of(error: BaseException | None) -> int | None:
    """The number of the disk's error that is behind `error`; None where there is none."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return None if error is None else error.errno


def same_trouble(first: BaseException, second: BaseException) -> bool:
    """Whether both are told in the same words, or are one disk's, as it is full."""
    number = errno_of(first)
    return reason_of(first) == reason_of(second) or (
        number is not None and number == errno_of(second)
    )
