"""How heavy a tail is: the shape of a generalised Pareto distribution fitted to it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEWEST = 5


def tail_shape(values: Tensor) -> float:
    """Pareto k̂ of the upper tail of `values` `(N,)`; −inf where the tail has fewer than 5 values.

    Above 1 the distribution has no mean, above ½ no variance; above 0.7 the mean of thousands of
    samples is still carried by values not seen yet, whatever its standard error says. The tail are
    the min(N/5, 3√N) largest values; the fit is Zhang and Stephens' (2009), with the prior and the
    threshold of Vehtari et al. 2024 (*Pareto smoothed importance sampling*, arXiv 1507.02646).
    """
    ordered = values.double().sort().values
    size = int(min(len(ordered) / 5, 3 * math.sqrt(len(ordered))))
    if size < FEWEST:
        return -math.inf
    tail = ordered[-size:] - ordered[-size - 1]
    tail = tail[tail > 0]
    if len(tail) < FEWEST:
        return -math.inf
    count, weight = len(tail), 10
    return (count * _fitted(tail) + weight * 0.5) / (count + weight)


def _fitted(tail: Tensor) -> float:
    """Zhang and Stephens' estimate from positive excesses `(M,)`, in ascending order."""
    points = 30 + int(math.sqrt(len(tail)))
    quarter = tail[int(len(tail) / 4 + 0.5) - 1]
    grid = torch.arange(1, points + 1, dtype=torch.float64)
    scale = 1 / tail[-1] + (1 - (points / (grid - 0.5)).sqrt()) / (3 * quarter)
    shape = torch.log1p(-scale[:, None] * tail).mean(1)
    log_likelihood = len(tail) * ((-scale / shape).log() - shape - 1)
    mean = (log_likelihood.softmax(0) * scale).sum()
    return float(torch.log1p(-mean * tail).mean())
