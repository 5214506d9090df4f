"""A pessimistic posterior of several scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from klvi.rewards.base import Reward
from klvi.rewards.python import as_reward
from klvi.samples import Samples
from klvi.schema import check_fields
from klvi.targets.base import checked_beta, resolved
from klvi.targets.members import member_scores
from klvi.targets.schema import EnsembleTarget
from klvi.targets.temperature import SolvedBeta

# `(N,)` how far the members `(N, M)` are apart.
SPREADS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "variance": lambda members: members.var(1, correction=0),
    "std": lambda members: members.std(1, correction=0),
    "min": lambda members: members.mean(1) - members.amin(1),
}


@dataclass(frozen=True)
class Ensemble(SolvedBeta):
    """p ∝ π0·exp((mean_m r_m − c·spread_m r_m)/β), c the pessimism: doubt counts against a text.

    The members r_m are the reward's separate scores (`reward/NAME`), unweighted. With the variance
    it is the uncertainty-weighted optimisation of Coste et al. (2023, arXiv 2310.02743; divided by
    M, not M − 1), which changes under (kr, kβ) unless c becomes c/k; with `std` p is invariant.
    `min` is mean − min, so that c = 1 is their worst-case optimisation, min_m r_m.

    The reward is a sum, several reward models, or a user's function that returns a dict of lists.
    Scores and β are in units of the reward; c is in 1/units with the variance, else a number.
    """

    name: ClassVar[str] = "ensemble"
    reward: Reward
    pessimism: float = 1.0
    spread: Literal["variance", "std", "min"] = "variance"
    beta: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_beta(self.beta))
        check_fields(EnsembleTarget, self)
        object.__setattr__(self, "reward", as_reward(self.reward))

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """The reward, whose separate scores are the members."""
        return {"reward": self.reward}

    def log_potential(self, samples: Samples) -> Tensor:
        """(mean − c·spread)/β: `(N,)`, nats; raises UserError for a reward of a single score."""
        members = member_scores(samples, self.name)
        score = members.mean(1) - self.pessimism * SPREADS[self.spread](members)
        size = float(score.abs().max()) if len(score) else 0.0
        return resolved(score / self.beta, f"a score of size {size:.3g} at beta={self.beta:g}")
