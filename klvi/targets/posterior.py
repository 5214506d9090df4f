"""The posterior of Bayesian inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from klvi.targets.base import Target


@dataclass(frozen=True)
class Posterior(Target):
    """p ∝ π0·exp(r/β), which maximises E[r] − β·KL(π‖π0) (Korbak et al. 2022, arXiv 2205.11275)."""

    name: ClassVar[str] = "posterior"
    beta: float

    def log_evidence(self, reward: Tensor) -> Tensor:
        """r/β: `(N,)`, nats."""
        return reward / self.beta
