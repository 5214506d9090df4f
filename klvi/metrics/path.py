"""How far samples of the prior reach on the way to a target, p_s ∝ π0·exp(s·φ), s from 0 to 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Of the share at which the effective samples fall to a floor.
STEPS = 40
SHOWN = (0.25, 0.5, 0.75, 1.0)


def effective_at(potential: Tensor, share: float) -> float:
    """`(Σw)²/Σw²` of N prior samples' weights `w = exp(share·φ)` towards p_share (Kong 1992).

    At any share above 0 what the target excludes has no weight; at 0 all weigh the same.

    Args:
        potential: `(N,)` φ = log P − log π0, nats; −inf for what the target excludes.
    """
    if share == 0:
        return float(len(potential))
    scaled = share * potential.cpu().double()
    if bool((scaled == -torch.inf).all()):
        return 0.0
    return math.exp(2 * float(scaled.logsumexp(0)) - float((2 * scaled).logsumexp(0)))


def furthest(potential: Tensor, floor: float) -> float:
    """The largest share at which the prior's samples carry `floor` effective ones; 0 for none.

    They fall as the share grows: the Rényi divergence of order 2 from equal weights rises.
    """
    if effective_at(potential, 1.0) >= floor:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if effective_at(potential, middle) >= floor:
            low = middle
        else:
            high = middle
    return low if low > high / 2 else 0.0


def reach(potential: Tensor, floor: float) -> str:
    """Why a target is out of the prior's reach, or how far it is, in words.

    Where these samples alone would carry it, it is others, the policy's, that show what they miss.
    """
    count, effective = len(potential), effective_at(potential, 1.0)
    met = int((potential > -torch.inf).sum())
    if met < min(floor, count):
        rate = f"a base rate of {met / count:.2g}"
        return f"{met} of {count} samples of the prior are in the target at all, {rate}"
    share = furthest(potential, floor)
    divergence = f"log(1+χ²) ≥ {math.log(count / effective):.1f}"
    if share == 1:
        return (
            f"{count} samples of the prior, which alone would carry {effective:.0f} effective "
            f"ones, miss what the policy's show of the target, {divergence}"
        )
    return (
        f"{count} samples of the prior carry {floor:g} effective ones up to {share:.2g} of the way "
        f"from prior to target, {divergence}"
    )
