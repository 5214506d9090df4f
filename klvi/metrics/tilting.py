"""How far a score has to tilt the prior for a given KL to it, from weighted samples of the prior.

The family p_s ∝ π0·exp(s·r) is that of the posteriors, s = 1/β, and of each KL(p‖π0) it holds the
distribution with the largest mean score. Of one context K(s) = KL(p_s‖π0) = s·E_p[r] − log Z and
dK/ds = s·Var_p[r]: K rises from 0 to −log π0(A), A the best sequences. Of several, the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Of the logarithm of s times the range of the scores; beyond, float64 tells no difference.
NARROWEST, WIDEST = math.log(1e-12), math.log(1e12)

# Nats below which a KL is none.
SMALLEST_KL = 1e-12


@dataclass(frozen=True)
class Tilted:
    """Weighted samples of p_s.

    Attributes:
        s: nats per unit of the score, 1/β.
        probability: `(N,)` self-normalised weights of p_s, which sum to 1 in each context.
        kl: KL(p_s‖π0), the mean over contexts, nats per sequence.
        kl_error: standard error of `kl` at this s, nats.
        spread: Var_p[r], the mean over contexts.
        effective: the smallest effective sample size of a context.
    """

    s: float
    probability: Tensor
    kl: float
    kl_error: float
    spread: float
    effective: float

    @property
    def s_error(self) -> float:
        """Standard error of the s at which KL(p_s‖π0) has this value: that of K over dK/ds."""
        slope = self.s * self.spread
        return self.kl_error / slope if slope > 0 else math.inf


def tilted(score: Tensor, log_weight: Tensor, context: Tensor, s: float) -> Tilted:
    """The samples weighed towards p_s ∝ π0·exp(s·r).

    Args:
        score: `(N,)` r.
        log_weight: `(N,)` nats, log π0 less the log-density of what drew each, up to a constant of
            its context; −inf for none.
        context: `(N,)` of each sample.
        s: nats per unit of the score.
    """
    score, log_weight = score.cpu().double(), log_weight.cpu().double()
    rows, place = context.cpu().unique(return_inverse=True)
    base = normalised(log_weight, place, len(rows))[0]
    highest = _over(score, place, len(rows), "amax")[place]
    values = s * (score - highest)
    probability, log_z = normalised(base.log() + values, place, len(rows))

    def total(each: Tensor) -> Tensor:
        return torch.zeros(len(rows)).double().index_add(0, place, each)

    mean = total(probability * (score - highest))
    centred = score - highest - mean[place]
    spread = total(probability * centred.square())
    kl = s * mean - log_z
    influence = s * probability * centred - (probability - base)
    return Tilted(
        s=s,
        probability=probability,
        kl=float(kl.mean()),
        kl_error=float(total(influence.square()).sum().sqrt()) / len(rows),
        spread=float(spread.mean()),
        effective=float((1 / total(probability.square())).min()),
    )


def reachable_kl(score: Tensor, log_weight: Tensor, context: Tensor) -> float:
    """The limit of KL(p_s‖π0) as s grows: −log of the share of the best samples, nats."""
    rows, place = context.cpu().unique(return_inverse=True)
    score = score.cpu().double()
    base = normalised(log_weight.cpu().double(), place, len(rows))[0]
    best = score == _over(torch.where(base > 0, score, -torch.inf), place, len(rows), "amax")[place]
    share = torch.zeros(len(rows)).double().index_add(0, place, base * best)
    return float(-share.log().mean())


def tilt_for_kl(score: Tensor, log_weight: Tensor, context: Tensor, kl: float) -> Tilted:
    """The samples weighed towards the p_s with KL(p_s‖π0) = `kl`, s > 0, by a root of K(s) − kl.

    Args: as `tilted`.

    Raises:
        ValueError: `kl` is not between 0 and `reachable_kl`.
    """
    from scipy.optimize import brentq

    limit = reachable_kl(score, log_weight, context)
    if not 0 < kl < limit:
        raise ValueError(f"KL(p‖π0) = {kl:g} is not between 0 and {limit:g} nats")
    unit = float(score.double().max() - score.double().min())

    def excess(log_s: float) -> float:
        return tilted(score, log_weight, context, math.exp(log_s) / unit).kl - kl

    root = brentq(excess, NARROWEST, WIDEST, xtol=1e-12, rtol=1e-12)
    return tilted(score, log_weight, context, math.exp(root) / unit)


def tilt_within_kl(score: Tensor, log_weight: Tensor, context: Tensor, kl: float) -> float:
    """The s whose p_s has the largest mean score of all distributions with KL(p‖π0) ≤ `kl`.

    0 where no score differs or `kl` is none, and where `kl` reaches that of the best sequences, an
    s so large that p_s holds only these.

    Args: as `tilted`.
    """
    used = score.cpu().double()[log_weight.cpu() > -torch.inf]
    unit = float(used.max() - used.min())
    if unit == 0 or kl <= SMALLEST_KL:
        return 0.0
    if kl >= reachable_kl(score, log_weight, context):
        return math.exp(WIDEST) / unit
    return tilt_for_kl(score, log_weight, context, kl).s


def normalised(log_weight: Tensor, place: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """`(N,)` weights that sum to 1 in each context, and `(C,)` the logarithms of their sums."""
    largest = _over(log_weight, place, rows, "amax")
    weight = (log_weight - largest[place]).exp()
    sums = torch.zeros(rows).double().index_add(0, place, weight)
    return weight / sums[place], sums.log() + largest


def _over(values: Tensor, place: Tensor, rows: int, how: str) -> Tensor:
    """`(C,)` an extreme of each context's values `(N,)`."""
    return torch.full((rows,), -torch.inf).double().scatter_reduce(0, place, values, how)
