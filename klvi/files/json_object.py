"""JSON: a file that holds one object, and what is written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
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


def to_json(value: object, indent: int | None = None) -> str:
    """`value` as JSON; a number that is not finite becomes null, since JSON knows none.

    What a terminal could take for a command, and what UTF-8 cannot hold, is escaped.
    """
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return re.sub(r"[^\n -~]", _escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
