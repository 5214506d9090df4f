"""What any number of a configuration may be at most, whatever its own field allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic_core import PydanticCustomError

T = TypeVar("T")

# NumPy's seeds, and so transformers', have 32 bits; nothing that klvi counts is more.
MAX_INTEGER = 2**32 - 1
# A product of two of them, or a quotient, is still a float32, and no square is lost as 0.
MIN_SIZE, MAX_SIZE = 1e-12, 1e12

OUT_OF_BOUNDS = "out_of_bounds"


def bounded(value: T) -> T:
    """The value, whose numbers, in lists and mappings too, are of a size that can be computed with.

    Raises pydantic's error of the type `OUT_OF_BOUNDS`, with the bounds in words.
    """
    if isinstance(value, Mapping):
        bounded(list(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            bounded(item)
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise PydanticCustomError(
            OUT_OF_BOUNDS, f"at {_end(value)} {_signed(value, MAX_INTEGER):,}"
        )
    elif isinstance(value, float) and value and not MIN_SIZE <= abs(value) <= MAX_SIZE:
        least, most = sorted(_signed(value, size) for size in (MIN_SIZE, MAX_SIZE))
        raise PydanticCustomError(OUT_OF_BOUNDS, f"at least {least:g} and at most {most:g}")
    return value


def _end(value: float) -> str:
    return "most" if value > 0 else "least"


def _signed(value: float, size: float) -> float:
    return size if value > 0 else -size
