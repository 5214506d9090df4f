"""The posterior under several scores of which one is right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from klvi.rewards.base import Reward
from klvi.rewards.python import as_reward
from klvi.samples import Samples
from klvi.schema import check_fields
from klvi.targets.base import checked_beta, resolved
from klvi.targets.members import member_scores
from klvi.targets.schema import PreferenceTarget
from klvi.targets.temperature import SolvedBeta


@dataclass(frozen=True)
class Preference(SolvedBeta):
    """p ∝ π0·mean_m exp(r_m/β): the likelihood is averaged over the scores, not the score.

    The evidence for x of a preference that is any of the members r_m, each as likely. Z is the mean
    of the members' Z_m, and p the mixture of their posteriors by Z_m/ΣZ. The optimistic side of an
    ensemble: mean_m r_m ≤ β·log mean_m exp(r_m/β) ≤ max_m r_m (arXiv 2606.09073). Members are the
    reward's separate scores, unweighted, in its units.
    """

    name: ClassVar[str] = "preference"
    reward: Reward
    beta: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_beta(self.beta))
        check_fields(PreferenceTarget, self)
        object.__setattr__(self, "reward", as_reward(self.reward))

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """The reward, whose separate scores are the members."""
        return {"reward": self.reward}

    def log_potential(self, samples: Samples) -> Tensor:
        """log mean_m exp(r_m/β): `(N,)`, nats; raises UserError for a reward of a single score."""
        members = member_scores(samples, self.name)
        size = float(members.abs().max()) if len(members) else 0.0
        potential = (members / self.beta).logsumexp(1) - math.log(members.shape[1])
        return resolved(potential, f"a score of size {size:.3g} at beta={self.beta:g}")
