"""A graded reward for texts of a few letters."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from klvi.contexts import Context


@dataclass(frozen=True)
class Letters:
    """Σ place/(i + 2)/8 over a text's words i = 0, 1, …, `place` that of its first letter (a: 1).

    Neither constant nor binary, and dependent on the order: nothing that preferring one token
    throughout could satisfy.
    """

    name: str = "letters"

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> list[float]:
        """Score N completions: at least 0 each."""
        scores = {text: self._score(text) for text in dict.fromkeys(texts)}
        return [scores[text] for text in texts]

    def _score(self, text: str) -> float:
        places = [string.ascii_lowercase.find(word[0].lower()) + 1 for word in text.split()]
        return sum(place / (i + 2) for i, place in enumerate(places)) / 8
