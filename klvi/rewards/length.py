"""Closeness of the completion's length to a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from klvi.contexts import Context
from klvi.rewards.schema import LengthReward
from klvi.schema import check_fields


@dataclass(frozen=True)
class Length:
    """−|length − target| / scale, the length in words (parted by white space) or characters."""

    target: int = 20
    scale: float = 10.0
    unit: Literal["words", "characters"] = "words"
    name: str = "length"

    def __post_init__(self) -> None:
        check_fields(LengthReward, self)

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> list[float]:
        """Score N completions: at most 0 each."""
        return [-abs(self._measure(text) - self.target) / self.scale for text in texts]

    def _measure(self, text: str) -> int:
        return len(text.split()) if self.unit == "words" else len(text)
