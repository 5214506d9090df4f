"""What every reader of prompt files gives: records, each with its place in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """One row of a file.

    Attributes:
        place: where it is, as `FILE:LINE`, for error messages.
        values: its fields by name, as plain Python values.
    """

    place: str
    values: Mapping[str, Any]
