"""The prior, sharpened or flattened as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from klvi.rewards.base import Reward
from klvi.rewards.python import as_reward
from klvi.samples import Samples
from klvi.schema import check_fields
from klvi.targets.base import Target, checked_beta
from klvi.targets.schema import PowerTarget


@dataclass(frozen=True)
class Power(Target):
    """p ∝ π0^α over whole sequences (Karan and Du 2025, arXiv 2510.14901).

    The posterior of r = log π0 at β = 1/(α − 1); log Z = (1 − α)·H_α(π0), the Rényi entropy. Not
    sampling at temperature 1/α, which lacks the sums Σ_y π0(y|s)^α over what follows a prefix s.
    Tempered, its exponent is 1 + share·(α − 1). The reward and `beta` do not enter p: the reward is
    measured, and `beta` scales losses.
    """

    name: ClassVar[str] = "power"
    reward: Reward
    alpha: float = 4.0
    beta: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_beta(self.beta))
        check_fields(PowerTarget, self)
        object.__setattr__(self, "reward", as_reward(self.reward))

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """The reward, which is only measured."""
        return {"reward": self.reward}

    def log_potential(self, samples: Samples) -> Tensor:
        """(α − 1)·log π0(x): `(N,)`, nats."""
        return (self.alpha - 1) * samples.log_prior_sequence
