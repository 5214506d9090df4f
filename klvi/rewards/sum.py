"""A weighted sum of rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.rewards.base import Reward
from klvi.rewards.scoring import evaluate


@dataclass(frozen=True)
class WeightedSum:
    """Σ weight·reward over labelled terms; an error names the term."""

    terms: Mapping[str, tuple[float, Reward]]
    name: str = "sum"

    def __post_init__(self) -> None:
        if not self.terms:
            raise UserError("reward.terms is empty: give at least one term")

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> Tensor:
        """Score N completions: `(N,)`."""
        total = torch.zeros(len(texts), dtype=torch.float64)
        for label, (weight, reward) in self.terms.items():
            name = f"{self.name}.{label} ({reward.name})"
            total += weight * evaluate(reward, texts, contexts, name)
        return total
