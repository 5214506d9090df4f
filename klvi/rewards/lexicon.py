"""Non-offensiveness by a list of words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from klvi.contexts import Context
from klvi.errors import UserError

# All mild swearing of the embedded grammar, and little more.
MILD_SWEARING = ("bloody", "bugger", "crap", "dammit", "damn", "damned", "darn", "hell")


@dataclass(frozen=True)
class Lexicon:
    """0 without a listed word, `penalty` (a negative log-odds) with one or more.

    A word is found as a whole word, in any case: "hell" is not in "shell".
    """

    words: tuple[str, ...] = MILD_SWEARING
    penalty: float = -1.0
    name: str = "lexicon"

    @staticmethod
    def load(
        words: Sequence[str] | None = None, path: str | None = None, penalty: float = -1.0
    ) -> Lexicon:
        """The words given, those of a file, or the default ones.

        Raises `UserError` for a missing or empty list.
        """
        if words is not None and path is not None:
            raise UserError("reward.words and reward.path exclude each other: give one of them")
        given = _read(path) if path is not None else words
        listed = MILD_SWEARING if given is None else [w.strip() for w in given if w.strip()]
        if not listed:
            source = "reward.words" if path is None else f"reward.path={path}"
            raise UserError(f"{source} lists no word: give at least one")
        return Lexicon(tuple(listed), penalty)

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> list[float]:
        """Score N completions: 0 or `penalty` each."""
        return [self.penalty if self._pattern.search(text) else 0.0 for text in texts]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        words = "|".join(map(re.escape, self.words))
        return re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)


def _read(path: str) -> list[str]:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UserError(
            f"reward.path={path}: {reason}; give a file with a word per line"
        ) from error
