"""What a reward is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from torch import Tensor

from klvi.contexts import Context

# What is reported and aimed at, among several scores.
REPORTED = "reward"
# How often each completion has the text that the reported reward is of; no part of the reward.
MENTIONS = "mentions"
# Of one of several scores; those that a score has beside it stand after a slash.
SCORE_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")
Scores: TypeAlias = Sequence[float] | Tensor | Mapping[str, Sequence[float] | Tensor]


class Reward(Protocol):
    """A score for each completion; read it through `klvi.rewards.score`, which checks it.

    A reward that is of a text may have `mentions(texts)`, how often each of N texts has it: `(N,)`.
    """

    @property
    def name(self) -> str:
        """What error messages call this reward."""
        ...

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> Scores:
        """Score N completions, decoded without special tokens, of N contexts: `(N,)`.

        Or several named scores, `(N,)` each, of which `reward` is the one that is aimed at.
        """
        ...


def of_rollout(reward: Reward) -> bool:
    """Whether it scores a completion by the others of its rollout, and so has no value of its own.

    Such a reward says so by an attribute `of_rollout`.
    """
    return bool(getattr(reward, "of_rollout", False))


def check_columns(reward: Reward, contexts: Sequence[Context]) -> None:
    """Tell a reward what it will score completions of, `contexts`, before the first of them.

    Raises UserError where it takes a column that they do not have.
    """
    check = getattr(reward, "check_columns", None)
    if check is not None:
        check(contexts)
