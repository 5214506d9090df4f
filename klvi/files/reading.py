"""Regular files alone, and no more of them than fits."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

from klvi.files.disk import KINDS

READ = os.O_RDONLY
# A link is not followed, a FIFO without another end does not block.
SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MAX_BYTES = 1 << 28  # bytes of a file that is read at once
CHUNK = 1 << 20


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
