"""What a reward is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from torch import Tensor

from klvi.contexts import Context

Scores: TypeAlias = Sequence[float] | Tensor


class Reward(Protocol):
    """A score for each completion; read it through `klvi.rewards.score`, which checks it."""

    @property
    def name(self) -> str:
        """What error messages call this reward."""
        ...

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> Scores:
        """Score N completions, decoded without special tokens, of N contexts: `(N,)`."""
        ...


def check_columns(reward: Reward, contexts: Sequence[Context]) -> None:
    """Tell a reward what it will score completions of, `contexts`, before the first of them.

    Raises UserError where it takes a column that they do not have.
    """
    check = getattr(reward, "check_columns", None)
    if check is not None:
        check(contexts)
