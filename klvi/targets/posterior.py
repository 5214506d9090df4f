"""The posterior of Bayesian inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from klvi.rewards.base import Reward
from klvi.rewards.python import as_reward
from klvi.samples import Samples
from klvi.schema import check_fields
from klvi.targets.base import checked_beta, resolved
from klvi.targets.schema import PosteriorTarget
from klvi.targets.temperature import SolvedBeta


@dataclass(frozen=True)
class Posterior(SolvedBeta):
    """p ∝ π0·exp(r/β), which maximises E[r] − β·KL(π‖π0) (Korbak et al. 2022, arXiv 2205.11275).

    Where `kl_prior` is given, β is the one with that KL(p‖π0), which rises from 0 to −log of the
    prior's share of the best sequences as β falls. The reward may be a function of texts. Raises
    UserError for what is none, and for another beta than a positive number.
    """

    name: ClassVar[str] = "posterior"
    reward: Reward
    beta: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_beta(self.beta))
        check_fields(PosteriorTarget, self)
        object.__setattr__(self, "reward", as_reward(self.reward))

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """The reward alone."""
        return {"reward": self.reward}

    def log_potential(self, samples: Samples) -> Tensor:
        """r/β: `(N,)`, nats; raises UserError where float64 cannot resolve it."""
        reward = samples.reward.double()
        size = float(reward.abs().max()) if len(reward) else 0.0
        return resolved(reward / self.beta, f"a reward of size {size:.3g} at beta={self.beta:g}")
