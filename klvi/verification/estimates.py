"""Every estimator's intervals against the exact value, over independent evaluations.

The policies are the prior, one half-way to what was trained, and the trained one, of objectives
that keep their diversity: where a collapsed policy makes one sample over and over, its intervals
can say nothing of what was not seen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from klvi.evaluation.evaluator import Evaluator
from klvi.metrics.measurement import Measurement, Metric, Unavailable
from klvi.verification.claim import Claim

SECTION = "Estimators: 95% intervals of independent evaluations"
SHARES = (0.0, 0.5, 1.0)
# Intervals that hold the exact value less often than this are wrong; luck fails right ones with
# the probability ERROR.
COVERAGE, ERROR = 0.92, 1e-5
# Of what a metric is computed from in float32; an interval is a point where all samples agree.
ROUNDING = 1e-6
LOWER, UPPER = "eval/log_z_lower", "eval/log_z_upper"
SANDWICH = "log_z_lower ≤ log Z ≤ log_z_upper"


@dataclass(frozen=True)
class Calibration:
    """A policy's metrics in independent evaluations, and what they estimate.

    Attributes:
        exact: by the metric's name.
        evaluations: metrics by name, one mapping an evaluation.
    """

    exact: Mapping[str, float | Unavailable]
    evaluations: Sequence[Mapping[str, Metric]]


def calibrations(evaluators: Sequence[Evaluator], repetitions: int) -> Iterator[Calibration]:
    """One for each share of each evaluator's policy, the adapter being scaled down.

    Every evaluation has random numbers of its own, also across policies: nearly equal ones would
    draw nearly equal samples from the same.
    """
    seeds = itertools.count()
    for evaluator in evaluators:
        for share in SHARES:
            policy = evaluator.policy.snapshot()
            # What is added to a weight is the product of two matrices.
            policy.set_adapter(math.sqrt(share) * weight for weight in policy.adapter_parameters())
            assert evaluator.enumeration is not None, "verify takes enumerable priors alone"
            enumeration = replace(evaluator.enumeration, policy=policy)
            scaled = replace(evaluator, policy=policy, enumeration=enumeration)
            yield _calibration(scaled, list(itertools.islice(seeds, repetitions)))


def _calibration(evaluator: Evaluator, seeds: Sequence[int]) -> Calibration:
    assert evaluator.enumeration is not None
    evaluations = [replace(evaluator, seed=seed).measure(0)[0] for seed in seeds]
    return Calibration(evaluator.enumeration.evaluate(0), evaluations)


def estimators(found: Sequence[Calibration]) -> Iterator[Claim]:
    """A claim per metric that has an exact value."""
    for name in found[0].evaluations[0]:
        claim = _claim(name, found)
        if claim is not None:
            yield claim
    yield _sandwich(found)


def _claim(name: str, found: Sequence[Calibration]) -> Claim | None:
    truths, hits, refused = [], [], 0
    for part in found:
        exact = part.exact.get(name)
        if not isinstance(exact, float) or not math.isfinite(exact):
            continue
        truths.append(exact)
        for metrics in part.evaluations:
            metric = metrics[name]
            if isinstance(metric, Unavailable):
                refused += 1
            else:
                hits.append(holds(metric, exact))
    if not hits:
        return None
    low, high = min(truths), max(truths)
    return Claim(
        SECTION,
        name.removeprefix("eval/"),
        f"95% hold {low:.3g}" + ("" if low == high else f" to {high:.3g}"),
        f"{sum(hits) / len(hits):.1%} of {len(hits)}" + (f"; {refused} refused" if refused else ""),
        _often_enough(hits),
    )


def _sandwich(found: Sequence[Calibration]) -> Claim:
    exact, hits = [], []
    for part in found:
        log_z, lower, upper = (part.exact.get(name) for name in ("eval/log_z", LOWER, UPPER))
        gaps = (_gap(lower, log_z), _gap(log_z, upper))
        exact += [gap <= 0 for gap in gaps if gap is not None]
        for metrics in part.evaluations:
            below, above = metrics[LOWER], metrics[UPPER]
            if isinstance(log_z, float) and isinstance(below, Measurement):
                hits.append(below.low <= log_z + ROUNDING)
            if isinstance(log_z, float) and isinstance(above, Measurement):
                hits.append(above.high >= log_z - ROUNDING)
    return Claim(
        SECTION,
        SANDWICH,
        "exact, and by intervals' outer ends",
        f"{sum(exact)} of {len(exact)}, and {sum(hits)} of {len(hits)}",
        all(exact) and bool(hits) and _often_enough(hits),
    )


def _gap(below: object, above: object) -> float | None:
    if isinstance(below, float) and isinstance(above, float):
        return below - above - ROUNDING
    return None


def holds(metric: Measurement, exact: float) -> bool:
    """Whether the interval holds the exact value, to within the rounding of float32."""
    slack = ROUNDING * max(1.0, abs(exact))
    return metric.low - slack <= exact <= metric.high + slack


def _often_enough(hits: Sequence[bool]) -> bool:
    """Whether so many misses, or more, have a probability above ERROR where COVERAGE is true."""
    count, misses = len(hits), len(hits) - sum(hits)
    probabilities = (
        math.comb(count, k) * (1 - COVERAGE) ** k * COVERAGE ** (count - k)
        for k in range(misses, count + 1)
    )
    return sum(probabilities) > ERROR
