"""The prior, conditioned on a binary constraint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from klvi.rewards.base import Reward
from klvi.rewards.python import as_reward
from klvi.samples import Samples
from klvi.schema import check_fields
from klvi.targets.base import Target, checked_beta
from klvi.targets.schema import ConstraintTarget


@dataclass(frozen=True)
class Constraint(Target):
    """p ∝ π0·1[r ≥ threshold] (Khalifa et al. 2021, arXiv 2012.11635, pointwise constraint).

    Z is the prior's rate of meeting it, and KL(p‖π0) = −log Z. For a reward of 0 or 1 it is the
    posterior's limit as β → 0; `beta` does not enter p. The reward may be a function of texts.
    """

    name: ClassVar[str] = "constraint"
    reward: Reward
    threshold: float = 0.5
    beta: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_beta(self.beta))
        check_fields(ConstraintTarget, self)
        object.__setattr__(self, "reward", as_reward(self.reward))

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """The reward alone."""
        return {"reward": self.reward}

    def log_potential(self, samples: Samples) -> Tensor:
        """0 where the reward is at least the threshold, else −inf: `(N,)`, nats."""
        return torch.where(samples.reward >= self.threshold, 0.0, -torch.inf).double()
