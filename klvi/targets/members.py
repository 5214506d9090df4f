"""The members of an ensemble: the scores that stand beside the run's reward."""

from __future__ import annotations

import torch
from torch import Tensor

from klvi.errors import UserError
from klvi.rewards.base import REPORTED
from klvi.samples import Samples

FEWEST = 2


def member_scores(samples: Samples, target: str) -> Tensor:
    """`(N, M)` the reward's separate scores, float64, without the weights of a sum.

    Raises UserError, naming the `target`, where the reward gives fewer than two.
    """
    start = f"{REPORTED}/"
    names = [name for name in samples.scores if name.startswith(start)]
    members = [name for name in names if "/" not in name.removeprefix(start)]
    if len(members) < FEWEST:
        found = members[0] if members else "a single score"
        raise UserError(
            f"target={target}: an ensemble of one: the reward gives {found} alone; take one that "
            "gives several named scores: reward=sum, reward=model of several models, or "
            "reward=python with a dict of lists"
        )
    return torch.stack([samples.scores[name].double() for name in members], 1)
