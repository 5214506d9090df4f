"""1 where the completion contains a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from klvi.contexts import Context
from klvi.rewards.schema import ContainsReward
from klvi.schema import check_fields


@dataclass(frozen=True)
class Contains:
    """1 where the completion contains `text`, else 0."""

    text: str
    case_sensitive: bool = True
    name: str = "contains"

    def __post_init__(self) -> None:
        check_fields(ContainsReward, self)

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> list[float]:
        """Score N completions: 0 or 1 each."""
        if self.case_sensitive:
            return [float(self.text in text) for text in texts]
        wanted = self.text.casefold()
        return [float(wanted in text.casefold()) for text in texts]
