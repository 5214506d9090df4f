"""1 where the completion contains a text, or how often it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from klvi.contexts import Context
from klvi.rewards.schema import ContainsReward
from klvi.schema import check_fields


@dataclass(frozen=True)
class Contains:
    """1 where the completion contains `text`, else 0; with `count` the number of its mentions."""

    text: str
    case_sensitive: bool = True
    count: bool = False
    name: str = "contains"

    def __post_init__(self) -> None:
        check_fields(ContainsReward, self)

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> list[float]:
        """Score N completions."""
        mentions = self.mentions(texts)
        return mentions if self.count else [min(number, 1.0) for number in mentions]

    def mentions(self, texts: Sequence[str]) -> list[float]:
        """How often each of N texts has the wanted one, without overlap."""
        if self.case_sensitive:
            return [float(text.count(self.text)) for text in texts]
        wanted = self.text.casefold()
        return [float(text.casefold().count(wanted)) for text in texts]
