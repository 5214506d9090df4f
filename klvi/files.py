"""Files and folders that are found whole or not at all, and errors that name the path.

What klvi writes goes through here. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from klvi.errors import RunError, UserError, described

READ, APPEND = os.O_RDONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT
# A link is not followed, a FIFO without another end does not block.
SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MAX_BYTES = 1 << 28  # bytes of a file that is read at once
CHUNK = 1 << 20
MEGABYTE = 1_000_000
TEMPORARY, LEFTOVER = ".klvi-{}.tmp", re.compile(r"\.klvi-[0-9a-f]{12}\.tmp")
RUST_ERROR = re.compile(r"\(os error ([0-9]+)\)")
# What klvi writes at the top of a run's folder.
WRITTEN = {
    **dict.fromkeys(("config.yaml", "manifest.json", "summary.json", "run.log"), "a file"),
    **dict.fromkeys(("metrics.jsonl", "samples.jsonl"), "a file"),
    **dict.fromkeys(("checkpoints", "adapter", "wandb"), "a folder"),
}
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


def open_regular(path: Path, flags: int = READ) -> int:
    """The descriptor of a regular file.

    Raises OSError with the path, also for a link, a FIFO, a device or a folder.
    """
    descriptor = os.open(path, flags | SAFELY, 0o666)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = KINDS.get(stat.S_IFMT(mode), "special")
        raise OSError(errno.EINVAL, f"is {what}, not a file", str(path))
    return descriptor


def read_bytes(path: Path, largest: int = MAX_BYTES) -> bytes:
    """The content of a regular file.

    Raises OSError, also for anything but a regular file and for more than `largest` bytes.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        # Not more than there is: a buffer of the largest size is made whole at once.
        content = file.read(min(largest, os.fstat(file.fileno()).st_size) + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"holds more than {largest:,} bytes", str(path))
    return content


def read_text(path: Path, largest: int = MAX_BYTES) -> str:
    """As `read_bytes`, decoded; raises ValueError where it is not UTF-8."""
    return read_bytes(path, largest).decode("utf-8")


def names_in(folder: Path) -> list[str]:
    """The names in a folder, none where there is no folder.

    Raises OSError where it cannot be read, which `glob` would take for an empty one.
    """
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def digest(path: Path) -> str:
    """What tells a file, or a folder with all that is in it, from any other: SHA-256, in hex.

    Links in a folder are followed, as in a cache of models; what is neither file nor folder is not.

    Raises OSError where something cannot be read.
    """
    sha = hashlib.sha256()
    if not path.is_dir():
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                sha.update(chunk)
        return sha.hexdigest()
    for below in sorted(path.rglob("*")):
        if below.is_file():
            sha.update(f"{below.relative_to(path)}\0{digest(below)}\0".encode())
    return sha.hexdigest()


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


def new_file_problem(path: str, *, overwrite: bool = False) -> str | None:
    """Why a file cannot be written at `path` without loss; None where it can."""
    place = Path(path).expanduser()
    if not path:
        return "is empty; give the name of a file"
    if path.endswith("/"):
        return "names a folder; give the name of a file"
    try:
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
