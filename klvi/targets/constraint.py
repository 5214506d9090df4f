"""The prior, conditioned on a binary constraint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from klvi.targets.base import Target


@dataclass(frozen=True)
class Constraint(Target):
    """p ∝ π0·1[r ≥ threshold] (Khalifa et al. 2021, arXiv 2012.11635, pointwise constraint).

    Z is the prior's rate of meeting it, and KL(p‖π0) = −log Z. For a reward of 0 or 1 it is the
    posterior's limit as β → 0; `beta` does not enter p.
    """

    name: ClassVar[str] = "constraint"
    threshold: float
    beta: float

    def log_evidence(self, reward: Tensor) -> Tensor:
        """0 where the reward is at least the threshold, else −inf: `(N,)`, nats."""
        return torch.where(reward >= self.threshold, 0.0, -torch.inf).double()
