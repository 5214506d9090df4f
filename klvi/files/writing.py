"""Files and folders that are found whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from klvi.errors import RunError
from klvi.files.disk import LEFTOVER, TEMPORARY, kind_of, naming
from klvi.files.reading import READ, SAFELY, open_regular, read_bytes

APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT


def append_text(path: Path, text: str) -> None:
    """Append to a regular file of klvi's own, or begin it; raises RunError.

    Of a file that has another name elsewhere, a copy is made: that other file stays as it is.
    """
    data = text.encode("utf-8", "backslashreplace")
    with naming(path), os.fdopen(open_regular(path, APPEND), "ab") as file:
        if os.fstat(file.fileno()).st_nlink == 1:
            file.write(data)
            return
    with naming(path):
        write_whole(path, read_bytes(path) + data)


def write_whole(path: Path, content: str | bytes, *, replace: bool = True) -> None:
    """Write a file that is found either whole or not at all, on the disk when this returns.

    A file that it replaces passes its mode on. Without `replace`, a file that has appeared in the
    meantime is left as it is.

    Raises RunError where the disk refuses it; what was there before is intact.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(TEMPORARY.format(secrets.token_hex(6)))
    with naming(path):
        try:
            _write_new(temporary, data, _mode(path))
            if replace:
                os.replace(temporary, path)
            elif not _moved(temporary, path):
                raise RunError(f"{path}: has appeared meanwhile; its content is in {temporary}")
            sync_folder(path.parent)
        except RunError:
            raise
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def _mode(path: Path) -> int | None:
    """The mode of a regular file; None where there is none."""
    with contextlib.suppress(OSError):
        mode = os.lstat(path).st_mode
        return stat.S_IMODE(mode) if stat.S_ISREG(mode) else None
    return None


def _write_new(path: Path, data: bytes, mode: int | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        if mode is not None:
            os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _moved(temporary: Path, path: Path) -> bool:
    """Give the file its name; False where that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if kind_of(path) is not None:
            return False
        os.rename(temporary, path)
        return True
    temporary.unlink()
    return True


@contextlib.contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder, yielded to be filled, that becomes `path` at the end of the block, or vanishes.

    Its files get the mode that the umask gives, whatever wrote them. An empty folder may be there
    already; with `replace` also another one, which goes.

    Raises RunError where the disk refuses it; what was there before is intact.
    """
    building, old = (path.with_name(TEMPORARY.format(secrets.token_hex(6))) for _ in range(2))
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir()
        try:
            yield building
            _settle(building)
            if replace and kind_of(path) is not None:
                path.rename(old)
            building.rename(path)
            sync_folder(path.parent)
        except RunError as error:  # of a file in it
            raise RunError(str(error).replace(str(building), str(path))) from error
        finally:
            for folder in (building, old):
                shutil.rmtree(folder, ignore_errors=True)


def _settle(folder: Path) -> None:
    """On the disk, with the modes that a new folder's own mode implies."""
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)
            descriptor = os.open(path, READ)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where its file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left in a folder of klvi's own."""
    for path in folder.rglob(TEMPORARY.format("*")):
        if not LEFTOVER.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
