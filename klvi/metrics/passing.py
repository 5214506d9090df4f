"""pass@k: how often at least one of k samples of a prompt has the reward 1."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from klvi.metrics.enumeration import Listed
from klvi.metrics.intervals import Estimate
from klvi.metrics.measurement import Unavailable
from klvi.metrics.metric import SCORE, Drawn, MetricSpec, unit_interval
from klvi.metrics.sampling import INDEPENDENT

PREFIX = "eval/pass_at_"
NOT_BINARY = "pass@k is of rewards of 0 and 1, and this one has other values"


def meaning(k: int | str) -> str:
    """Of pass@k, in a table."""
    return f"a 1 in {k} sample{'' if str(k) == '1' else 's'}"


def pass_at(k: int) -> MetricSpec:
    """The metric `eval/pass_at_K`, the mean over prompts."""
    return MetricSpec(
        name=f"{PREFIX}{k}",
        unit="share",
        group="Reward",
        meaning=meaning(k),
        exact=lambda listed: _exact(listed, k),
        estimate=lambda drawn: _estimate(drawn, k),
        interval=unit_interval,
        needs=frozenset({"equal weights", f"{SCORE}reward"}),
    )


def pass_share(n: int, passed: int, k: int) -> float:
    """`1 − C(n−c, k)/C(n, k)` of c in n samples that passed, an unbiased estimate.

    Chen et al. 2021, arXiv 2107.03374, section 2.1. Raises ValueError for k > n.
    """
    if k > n:
        raise ValueError(f"pass@{k} of {n} samples")
    return 1 - math.comb(n - passed, k) / math.comb(n, k)


def pass_estimate(reward: Tensor, k: int) -> Estimate:
    """pass@k of independent rewards `(n,)` of 0 and 1, worth n/k samples of it.

    Its error is the delta method's: `k(1 − p)^(k−1)` times that of the share p that passes.
    """
    n, share = len(reward), float(reward.double().mean())
    influence = k * (1 - share) ** (k - 1) * (reward.double() - share)
    found = INDEPENDENT.estimate(pass_share(n, int(reward.sum()), k), influence)
    return replace(found, units=n / k)


def _estimate(drawn: Drawn, k: int) -> Estimate | Unavailable:
    reward, n = drawn.score("reward"), len(drawn.samples)
    if not _binary(reward):
        return Unavailable(NOT_BINARY)
    if not drawn.sampling.independent:
        return Unavailable("pass@k is of independent samples, and those of a replicate are not")
    if k > n:
        return Unavailable(f"pass@{k} needs {k} samples of a prompt, and there are {n}")
    return pass_estimate(reward, k)


def _exact(listed: Listed, k: int) -> float | Unavailable:
    reward = listed.scores["reward"]
    if not _binary(reward):
        return Unavailable(NOT_BINARY)
    return 1 - (1 - min(float(listed.policy @ reward), 1.0)) ** k


def _binary(reward: Tensor) -> bool:
    return bool(((reward == 0) | (reward == 1)).all())
