"""Standard errors and confidence intervals.

An estimator hands over its value and its influence function (the delta method's linear part): the
estimator's error is, to first order, the mean of the influences. What follows is the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import torch
from torch import Tensor

from klvi.metrics.measurement import Measurement

TWO_DEGREES = 2
# Contexts that a two-stage sample has at least.
TWO_STAGES = 2
POISSON_COUNT = 4.0
# Degrees of freedom below which an estimate is carried by fewer than ten samples.
FEW_DEGREES = 20.0
# Nats that a set of sequences which no sample was may add, in units of 1/N.
ROOM = 2.0


@dataclass(frozen=True)
class Estimate:
    """A value and what is known of its estimator's distribution.

    Attributes:
        value: the point estimate.
        error: standard error.
        n: number of samples.
        degrees: degrees of freedom of `error`: N for normal influences, about 2k where k of the
            samples carry the variance (Satterthwaite 1946).
        skewness: of the estimator: that of the influences over √N.
        units: independent samples that `n` are worth; None where that is n.
    """

    value: float
    error: float
    n: int
    degrees: float
    skewness: float = 0.0
    units: float | None = None

    @property
    def size(self) -> float:
        """How many independent samples there are."""
        return float(self.n) if self.units is None else self.units

    @property
    def finite(self) -> bool:
        """Whether value and error are numbers: neither is where what is averaged overflows."""
        return math.isfinite(self.value) and math.isfinite(self.error)

    @property
    def carried_by_few(self) -> bool:
        """Whether hardly any sample differs from the rest, so that more may have been missed."""
        return self.error == 0 or self.degrees < FEW_DEGREES


def t_quantile(confidence: float, degrees: float) -> float:
    """Half-width, in standard errors, of Student's two-sided interval.

    Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5), within 1% from 3 degrees of freedom on;
    exact at 1 and 2, to which smaller and in-between values are rounded down.
    """
    whole = math.floor(degrees)
    if whole <= 1:
        return math.tan(math.pi * confidence / 2)
    if whole == TWO_DEGREES:
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


def estimate(
    value: float, influence: Tensor, strata: Tensor | None = None, units: Tensor | None = None
) -> Estimate:
    """The estimate `value` whose error is, to first order, the mean of `influence` `(N,)`.

    Each stratum (an id in `0..K-1` per sample, `(N,)`) has a fixed number of units, at least 2.

    Args:
        units: `(N,)` the independent unit of each sample, in `0..G-1`, within one stratum: the
            variance is that of the units' sums (Cochran 1977, section 9A.2). None where samples
            are independent.
    """
    influence = influence.double()
    n = count = len(influence)
    deviations, sizes = centre(influence, strata)
    if units is not None:
        deviations, sizes = _summed(deviations, strata, units)
        count = len(deviations)
    unit = float(deviations.abs().max())
    if unit == 0:
        return Estimate(value, 0.0, n, float(count - 1))
    if not math.isfinite(unit):
        return Estimate(value, math.inf, n, 1.0)
    deviations = deviations / unit  # whose powers would leave the range of float64
    squares = deviations.square() * sizes / (sizes - 1)
    total = float(squares.sum())
    excess = float(squares.square().sum()) / total**2 - 1 / count
    return Estimate(
        value=value,
        error=unit * math.sqrt(total) / n,
        n=n,
        degrees=max(min(2 / max(excess, 2 / count), count - 1), 1.0),
        skewness=float(deviations.pow(3).sum()) / total**1.5,
    )


def _summed(deviations: Tensor, strata: Tensor | None, units: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of each unit's deviations `(G,)`, and the units of its stratum `(G,)`."""
    count = int(units.max()) + 1
    sums = torch.zeros(count, dtype=deviations.dtype).index_add_(0, units, deviations)
    if strata is None:
        return sums, torch.full_like(sums, count)
    stratum = torch.zeros(count, dtype=strata.dtype).scatter_(0, units, strata)
    return sums, torch.bincount(stratum)[stratum].to(sums)


def average(
    estimates: Sequence[Estimate], weights: Sequence[float], share: float = 1.0
) -> Estimate:
    """The weighted mean of independent estimates, one a context; weights sum to 1.

    The contexts are a `share` of all, drawn at random, and the mean is that of all. With a share f
    of 1 they are fixed strata. Below, it is a two-stage sample, whose variance is
    `(1 − f)·s²/C + f·Σ (w·error)²`, s² that of the C contexts' values, of which sampling within
    them is a part (Cochran 1977, *Sampling Techniques*, section 10.4).

    Raises ValueError for a single context of several, which says nothing of the others.
    """
    pairs, count = list(zip(estimates, weights, strict=True)), len(estimates)
    value, n = sum(w * e.value for e, w in pairs), sum(e.n for e in estimates)
    size = sum(e.size for e in estimates)
    # Terms of the variance: its size, its degrees of freedom, and the third moment behind it.
    terms = [(share * (w * e.error) ** 2, e.degrees) for e, w in pairs]
    third = share * sum((w * e.error) ** 3 * e.skewness for e, w in pairs)
    units = None if all(e.units is None for e in estimates) else size
    if share < 1:
        if count < TWO_STAGES:
            raise ValueError("a single context of several was measured")
        gaps = [w * (e.value - value) for e, w in pairs]
        between = (1 - share) * count / (count - 1) * sum(gap**2 for gap in gaps)
        terms.append((between, float(count - 1)))
        third += (1 - share) * sum(gap**3 for gap in gaps)
        units = 1 / ((1 - share) / count + share / size)
    variance = sum(size for size, _ in terms)
    if variance == 0:
        return Estimate(value, 0.0, n, float(size - 1 if share == 1 else count - 1), units=units)
    if not math.isfinite(variance) or not math.isfinite(variance**2):
        return Estimate(value, math.inf, n, 1.0, units=units)
    return Estimate(
        value=value,
        error=math.sqrt(variance),
        n=n,
        degrees=variance**2 / sum(size**2 / degrees for size, degrees in terms),
        skewness=third / variance**1.5,
        units=units,
    )


def with_room(found: Estimate, unit: float = 1.0) -> Estimate:
    """The estimate, in nats, with room for what no sample was, where few samples carry it.

    A set of sequences of probability 1/N is missed by N samples more than one time in three. Where
    its log-ratio is two nats away from the rest it moves the mean by 2/N, which is then the
    smallest error. It counts where the samples agree, as those of a policy at its target do: sets
    of samples that missed what is left would look the most certain.

    Args:
        unit: what a nat is in the units of the estimate.
    """
    room = ROOM * unit / found.size
    variance = found.error**2 + room**2
    if not found.carried_by_few or variance == 0:
        return found
    return replace(
        found,
        error=math.sqrt(variance),
        degrees=variance**2 / (found.error**4 / found.degrees + room**4 / (found.size - 1)),
        skewness=found.skewness * (found.error**2 / variance) ** 1.5,
    )


def interval(
    estimate: Estimate, confidence: float, low: float = -math.inf, high: float = math.inf
) -> Measurement:
    """Student's interval, corrected for skewness and cut at the bounds `low` and `high`.

    The correction is the monotone cubic transformation of Hall (1992), *On the removal of skewness
    by transformation*; without skewness the interval is symmetric.
    """
    if not estimate.finite:
        return Measurement(estimate.value, -math.inf, math.inf, estimate.n)
    quantile = t_quantile(confidence, estimate.degrees)
    above = _unskewed(quantile, estimate.skewness)
    below = _unskewed(-quantile, estimate.skewness)
    bottom = estimate.value - estimate.error * above
    top = estimate.value - estimate.error * below
    value = estimate.value
    # What its own error carries beyond a bound is cut; what is further beyond is a fault to see.
    if top >= low and bottom <= high:
        value = min(max(value, low), high)
    return Measurement(
        value=value,
        low=min(value, max(low, bottom)),
        high=max(value, min(high, top)),
        n=estimate.n,
    )


def _unskewed(quantile: float, skewness: float) -> float:
    """The quantile of the studentised error whose normalising transform is `quantile`."""
    slope = skewness / 3
    if math.isclose(slope, 0, abs_tol=1e-9):
        return quantile
    cube = 1 + 3 * slope * (quantile - skewness / 6)
    return (math.copysign(abs(cube) ** (1 / 3), cube) - 1) / slope


def bounded_interval(estimate: Estimate, confidence: float, low: float, high: float) -> Measurement:
    """The interval of a mean of a variable that lies between `low` and `high`.

    Wilson's score interval (1927) at the effective sample size at which a two-valued variable would
    have this standard error. It does not collapse where every sample has the same value: the
    samples then leave room for an unseen one.
    """
    scale = high - low
    if not estimate.finite or not math.isfinite(scale):
        return Measurement(estimate.value, -math.inf, math.inf, estimate.n)
    if scale <= 0:
        return Measurement(estimate.value, estimate.value, estimate.value, estimate.n)
    share = min(max((estimate.value - low) / scale, 0.0), 1.0)
    error, spread = estimate.error / scale, share * (1 - share)
    size = spread / error**2 if error > 0 and spread > 0 else estimate.size
    quantile = t_quantile(confidence, estimate.degrees)
    if error == 0:
        unseen = quantile**2 / (size + quantile**2)
        bottom, top = share * (1 - unseen), share + (1 - share) * unseen
    else:
        bottom = _score_bound(share, size, quantile, confidence)
        top = 1 - _score_bound(1 - share, size, quantile, confidence)
    return Measurement(
        value=estimate.value,
        low=min(estimate.value, low + scale * bottom),
        high=max(estimate.value, low + scale * top),
        n=estimate.n,
    )


def _score_bound(share: float, size: float, quantile: float, confidence: float) -> float:
    """Wilson's lower bound of a proportion `share` of `size`.

    Below a count of 4 it is too high; there it is that of a Poisson count, one-sided (Brown, Cai
    and DasGupta 2001, section 4.1.1), with the Wilson-Hilferty approximation of chi-squared.
    """
    middle = share + quantile**2 / (2 * size)
    reach = quantile * math.sqrt(share * (1 - share) / size + (quantile / (2 * size)) ** 2)
    bound = (middle - reach) / (1 + quantile**2 / size)
    count = share * size
    if not 0 < count < POISSON_COUNT:
        return max(bound, 0.0)
    root = 1 - 1 / (9 * count) - NormalDist().inv_cdf(confidence) / (3 * math.sqrt(count))
    return min(bound, share * max(root, 0.0) ** 3)
