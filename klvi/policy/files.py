"""Model files on disk: whether they are whole."""

from __future__ import annotations

import json
import stat
from pathlib import Path

LFS_POINTER = b"version https://git-lfs"
# safetensors begins with the length of its header, in 8 bytes.
LENGTH_BYTES, MAX_HEADER = 8, 100_000_000
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
TEXTS = ("*.json", "*.model", "*.txt")


def file_problems(folder: Path) -> list[str]:
    """A line for each file of a model's folder that is a Git LFS pointer or cut off."""
    found = []
    for file in sorted(path for pattern in (*WEIGHTS, *TEXTS) for path in folder.glob(pattern)):
        problem = _problem(file)
        if problem:
            found.append(f"{file.name} {problem}")
    return found


def _problem(file: Path) -> str | None:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return "is no file: give a folder that is saved whole"  # to open a FIFO would block
        with file.open("rb") as stream:
            start = stream.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            return "is a Git LFS pointer, not the file itself: run git lfs pull"
        if file.suffix == ".safetensors":
            return _safetensors_problem(file)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _safetensors_problem(file: Path) -> str | None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > min(MAX_HEADER, size):
            return f"is cut off or no safetensors file ({size:,} bytes): download it again"
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for n, entry in header.items() if n != "__metadata__"]
        except (ValueError, TypeError, KeyError, LookupError, AttributeError):
            return "has a header that is no JSON object of tensors: download it again"
    missing = LENGTH_BYTES + length + max(ends, default=0) - size
    return f"is cut off, {missing:,} bytes are missing: download it again" if missing > 0 else None
