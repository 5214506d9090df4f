"""Checksums of a folder's files, by which what a disk or a copy has damaged is found."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from klvi.files import kind_of, naming, read_bytes, read_text, write_whole

FILE = "checksums.json"
MAX_BYTES = 1 << 36  # bytes of a file of a checkpoint


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of each file in `folder` beside them; raises RunError."""
    with naming(folder):
        sums = {p.name: _sha256(p) for p in sorted(folder.iterdir()) if p.name != FILE}
    write_whole(folder / FILE, json.dumps(sums, indent=2) + "\n")


def damage(folder: Path, *, required: bool) -> str | None:
    """Which file of `folder` is not as it was written, and why; None where all are.

    `required` is false for folders of earlier versions, which have no checksums.
    """
    if kind_of(folder / FILE) is None and not required:
        return None
    try:
        sums = json.loads(read_text(folder / FILE, 1 << 20))
        if not isinstance(sums, dict) or not sums:
            raise ValueError("not a mapping of names to checksums")
    except (OSError, ValueError, RecursionError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        return f"{folder / FILE} is {reason}"
    for name, expected in sums.items():
        path = folder / Path(str(name)).name
        try:
            if _sha256(path) != expected:
                return f"{path} is damaged (its checksum differs)"
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
    return None


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path, MAX_BYTES)).hexdigest()
