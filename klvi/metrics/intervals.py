"""Standard errors and confidence intervals.

An estimator hands over its value and its influence function (the delta method's linear part): the
estimator's error is, to first order, the mean of the influences. What follows is the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from klvi.metrics.measurement import Measurement


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error with that error's degrees of freedom, and the sample size."""

    value: float
    error: float
    degrees: float
    n: int


def t_quantile(confidence: float, degrees: float) -> float:
    """Half-width, in standard errors, of Student's two-sided interval.

    Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5), within 1% from 3 degrees of freedom on;
    exact at 1 and 2, to which smaller and in-between values are rounded down.
    """
    if degrees < 2:  # noqa: PLR2004
        return math.tan(math.pi * confidence / 2)
    if degrees < 3:  # noqa: PLR2004
        return confidence * math.sqrt(2 / (1 - confidence**2))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )


def centre(values: Tensor, strata: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Deviations `(N,)` from the mean of each stratum, and each one's stratum size `(N,)`."""
    if strata is None:
        return values - values.mean(), torch.full_like(values, len(values))
    number = int(strata.max()) + 1
    sizes = torch.bincount(strata, minlength=number).to(values)
    means = torch.zeros(number, dtype=values.dtype).index_add_(0, strata, values) / sizes
    return values - means[strata], sizes[strata]


def estimate(value: float, influence: Tensor, strata: Tensor | None = None) -> Estimate:
    """The estimate `value` whose error is the mean of `influence` `(N,)`.

    Samples are independent; each stratum (an id in `0..K-1` per sample, `(N,)`) has a fixed size of
    at least 2. The degrees of freedom are those of the variance estimate: 2 over its squared
    relative error, which the kurtosis of the influences gives (Satterthwaite 1946). They are N for
    a normal sample and about 2k where k of the N samples carry the variance.
    """
    influence = influence.double()
    n = len(influence)
    deviations, sizes = centre(influence, strata)
    squares = deviations.square() * sizes / (sizes - 1)
    total = float(squares.sum())
    if total <= 0:
        return Estimate(value, 0.0, float(n - 1), n)
    excess = float(squares.square().sum()) / total**2 - 1 / n
    degrees = min(2 / max(excess, 2 / n), n - 1)
    return Estimate(value, math.sqrt(total) / n, max(degrees, 1.0), n)


def average(estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """The weighted mean of independent estimates; weights sum to 1."""
    parts = [(w * e.error) ** 2 for e, w in zip(estimates, weights, strict=True)]
    variance = sum(parts)
    n = sum(e.n for e in estimates)
    value = sum(w * e.value for e, w in zip(estimates, weights, strict=True))
    if variance == 0:
        return Estimate(value, 0.0, float(n - 1), n)
    spread = sum(part**2 / e.degrees for e, part in zip(estimates, parts, strict=True))
    return Estimate(value, math.sqrt(variance), variance**2 / spread, n)


def interval(
    estimate: Estimate,
    confidence: float,
    low: float = -math.inf,
    high: float = math.inf,
) -> Measurement:
    """The interval of an estimate of something that lies between `low` and `high`.

    Student's interval, cut at the bounds; between two finite bounds Wilson's score interval (1927)
    at the effective sample size at which a two-valued variable would have this standard error, so
    that it does not collapse where every sample has the same value.
    """
    if math.isfinite(low) and math.isfinite(high):
        return _score_interval(estimate, t_quantile(confidence, estimate.n - 1), low, high)
    reach = t_quantile(confidence, estimate.degrees) * estimate.error
    return Measurement(
        value=estimate.value,
        low=max(low, estimate.value - reach),
        high=min(high, estimate.value + reach),
        n=estimate.n,
    )


def _score_interval(estimate: Estimate, quantile: float, low: float, high: float) -> Measurement:
    scale = high - low
    if scale == 0:
        return Measurement(estimate.value, estimate.value, estimate.value, estimate.n)
    share = min(max((estimate.value - low) / scale, 0.0), 1.0)
    error = estimate.error / scale
    if error == 0:
        unseen = quantile**2 / (estimate.n + quantile**2)
        bottom, top = share * (1 - unseen), share + (1 - share) * unseen
    else:
        spread = share * (1 - share)
        size = spread / error**2 if spread > 0 else estimate.n
        middle = (share + quantile**2 / (2 * size)) / (1 + quantile**2 / size)
        reach = math.sqrt(spread / size + (quantile / (2 * size)) ** 2)
        reach *= quantile / (1 + quantile**2 / size)
        bottom, top = middle - reach, middle + reach
    value = estimate.value
    return Measurement(
        value=value,
        low=min(value, low + scale * bottom),
        high=max(value, low + scale * top),
        n=estimate.n,
    )


def log_interval(estimate: Estimate, confidence: float) -> Measurement:
    """The interval of a positive estimate, symmetric on the logarithmic scale (delta method)."""
    if estimate.value <= 0:
        return interval(estimate, confidence, low=0.0)
    quantile = t_quantile(confidence, estimate.degrees)
    factor = math.exp(quantile * estimate.error / estimate.value)
    return Measurement(estimate.value, estimate.value / factor, estimate.value * factor, estimate.n)
