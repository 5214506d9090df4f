"""A weighted sum of rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.rewards.base import REPORTED, SCORE_NAME, Reward, check_columns, of_rollout
from klvi.rewards.python import as_reward
from klvi.rewards.scoring import evaluate


class Term(NamedTuple):
    """A reward and its weight in a sum."""

    weight: float
    reward: Reward


@dataclass(frozen=True)
class WeightedSum:
    """Σ weight·reward over labelled terms, each weight and reward; an error names the term.

    Each term's own score, without its weight, stands beside the sum.
    """

    terms: Mapping[str, Term]
    name: str = "sum"

    def __post_init__(self) -> None:
        if not self.terms:
            raise UserError("reward.terms is empty: give at least one term")
        for label in self.terms:
            if label == REPORTED or not SCORE_NAME.fullmatch(label):
                raise UserError(
                    f"reward.terms.{label}: a term's label names its score; use letters, digits, "
                    f"dots, dashes and underscores, and not {REPORTED!r}, which is the sum's"
                )
        terms = {label: Term(w, as_reward(reward)) for label, (w, reward) in self.terms.items()}
        object.__setattr__(self, "terms", terms)

    @property
    def of_rollout(self) -> bool:
        """Whether a term is."""
        return any(of_rollout(reward) for _, reward in self.terms.values())

    def check_columns(self, contexts: Sequence[Context]) -> None:
        """Raises UserError where a term takes what no column of `contexts` provides."""
        for _, reward in self.terms.values():
            check_columns(reward, contexts)

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> dict[str, Tensor]:
        """Score N completions: the sum and each term, `(N,)`, float64."""
        total = torch.zeros(len(texts), dtype=torch.float64)
        scores: dict[str, Tensor] = {}
        for label, (weight, reward) in self.terms.items():
            name = f"{self.name}.{label} ({reward.name})"
            for part, values in evaluate(reward, texts, contexts, name).items():
                scores[label if part == REPORTED else f"{label}/{part}"] = values
            total += weight * scores[label]
        return {REPORTED: total, **scores}
