"""Bias of non-linear estimates, which an average over contexts does not shrink."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from klvi.metrics.intervals import Estimate, average

GROUPS = 8


def debiased(whole: Estimate, without: Sequence[float]) -> Estimate:
    """The estimate less its bias of order 1/N (Quenouille 1956, the jackknife by groups).

    Of C contexts with N samples each the error of a mean falls with √(CN), its bias with N alone.

    Args:
        without: the values of the same estimate without the samples of each of `GROUPS` groups.
    """
    if not all(map(math.isfinite, [whole.value, *without])):
        return whole
    count = len(without)
    mean = sum(without) / count
    # What the correction, and regressions on few samples, add to the first-order error.
    error = math.sqrt((count - 1) / count * sum((value - mean) ** 2 for value in without))
    value = whole.value + (count - 1) * (whole.value - mean)
    return replace(whole, value=value, error=max(whole.error, error))


def averaged(
    wholes: Sequence[Estimate], debiased: Sequence[Estimate], weights: Sequence[float], share: float
) -> Estimate:
    """`average` of `debiased` estimates, with half of the mean correction as a further error.

    What the jackknife leaves of a bias is common to all contexts, and smaller than what it took.
    """
    found = average(debiased, weights, share)
    correction = found.value - average(wholes, weights, share).value
    if not math.isfinite(correction) or not math.isfinite(found.error):
        return found
    return replace(found, error=math.hypot(found.error, correction / 2))


def kept(count: int, group: int, units: Tensor | None = None) -> Tensor:
    """`(n,)` which of `count` samples are not in `group`; a unit `(count,)` stays together."""
    rows = torch.arange(count)
    return rows[(rows if units is None else units) % GROUPS != group]
