"""A JSON file that holds one object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from klvi.files.reading import read_text

MAX_JSON_BYTES = 1 << 24


def read_json(file: Path, largest: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file of a run's folder.

    Raises OSError for anything but a regular file of at most `largest` bytes, and ValueError for
    anything but one object in it.
    """
    try:
        content = json.loads(read_text(file, largest))
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("is not a JSON object")
    return content
