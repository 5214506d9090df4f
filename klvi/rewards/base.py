"""What a reward is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from torch import Tensor

Scores: TypeAlias = Sequence[float] | Tensor


class Reward(Protocol):
    """A score for each completion; read it through `klvi.rewards.score`, which checks it."""

    @property
    def name(self) -> str:
        """What error messages call this reward."""
        ...

    def __call__(self, texts: Sequence[str], prompts: Sequence[str]) -> Scores:
        """Score N completions, decoded without special tokens, given their N prompts: `(N,)`."""
        ...
