"""The posterior of Bayesian inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from klvi.targets.base import Target, resolved


@dataclass(frozen=True)
class Posterior(Target):
    """p ∝ π0·exp(r/β), which maximises E[r] − β·KL(π‖π0) (Korbak et al. 2022, arXiv 2205.11275)."""

    name: ClassVar[str] = "posterior"
    beta: float

    def log_evidence(self, reward: Tensor) -> Tensor:
        """r/β: `(N,)`, nats; raises UserError where float64 cannot resolve it."""
        size = float(reward.double().abs().max()) if reward.numel() else 0.0
        what = f"a reward of size {size:.3g} at beta={self.beta:g}"
        return resolved(reward.double() / self.beta, what)
