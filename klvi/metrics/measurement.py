"""What a metric comes to: a number with its interval, or the reason why there is none."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Measurement:
    """A metric's value, its confidence interval `[low, high]` and the number of samples."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, object]:
        """The entry of `summary.json`."""
        return asdict(self)


@dataclass(frozen=True)
class Unavailable:
    """A metric that is infinite, undefined or not trustworthy here, and why."""

    reason: str
    value: ClassVar[None] = None
    low: ClassVar[None] = None
    high: ClassVar[None] = None

    def to_json(self) -> dict[str, object]:
        """The entry of `summary.json`."""
        return {"value": None, "reason": self.reason}


Metric = Measurement | Unavailable
