"""Every estimator against its exact value, at every evaluation of real runs.

The runs are of objectives that keep their diversity: where a collapsed policy makes one sample over
and over, its intervals can say nothing of what was not seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from klvi.verification.claim import Claim

SECTION = "Estimators, at every evaluation of kl and gdc"
# In half-widths of 95% intervals. Evaluations share their random numbers and so their misses: how
# many intervals miss says little of an estimator, how far they miss says much.
MEDIAN, FURTHEST = 2.0, 4.0
SANDWICH = "log_z_lower ≤ log Z ≤ log_z_upper"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """An estimate beside what it estimates.

    Attributes:
        distance: from the exact value, in half-widths of the interval on that side.
    """

    exact: float
    distance: float


def estimators(records: Sequence[Record]) -> Iterator[Claim]:
    """A claim per metric, of the records of `metrics.jsonl` that hold an evaluation."""
    names = {key for record in records for key in record if f"{key}/low" in record}
    for name in sorted(names):
        found = [c for c in (compare(record, name) for record in records) if c is not None]
        if found:
            yield _claim(name, found, len(records))
    yield _sandwich(records)


def compare(record: Record, name: str) -> Comparison | None:
    """The comparison of a metric in a record; None where estimate or exact value is missing."""
    value, exact = record.get(name), record.get(f"exact/{name.removeprefix('eval/')}")
    if value is None or exact is None:
        return None
    side = record[f"{name}/high"] if exact > value else record[f"{name}/low"]
    gap, width = abs(exact - value), abs(side - value)
    # Where an estimate is exact, as at the prior, its interval is a point.
    tolerance = 1e-4 * max(1.0, abs(exact))
    return Comparison(exact, 0.0 if gap <= tolerance else gap / width if width else math.inf)


def _claim(name: str, found: Sequence[Comparison], evaluations: int) -> Claim:
    low, high = min(c.exact for c in found), max(c.exact for c in found)
    inside = sum(c.distance <= 1 for c in found)
    furthest = max(c.distance for c in found)
    refused = evaluations - len(found)
    measured = f"{inside} of {len(found)} intervals hold it, furthest ×{furthest:.1f}"
    return Claim(
        SECTION,
        name.removeprefix("eval/"),
        f"exact {low:.3g}" if low == high else f"exact {low:.3g} to {high:.3g}",
        measured + (f"; {refused} refused" if refused else ""),
        median(c.distance for c in found) <= MEDIAN and furthest <= FURTHEST,
    )


def _sandwich(records: Sequence[Record]) -> Claim:
    slacks = [
        slack
        for record in records
        for slack in (
            _difference(record.get("exact/log_z"), _doubled(record, "eval/log_z_lower", "low")),
            _difference(_doubled(record, "eval/log_z_upper", "high"), record.get("exact/log_z")),
        )
        if slack is not None
    ]
    held = sum(slack >= 0 for slack in slacks)
    return Claim(
        SECTION,
        SANDWICH,
        "within two half-widths",
        f"held by {held} of {len(slacks)} bounds",
        held == len(slacks) > 0,
    )


def _doubled(record: Record, name: str, side: str) -> float | None:
    """The end of an interval of twice the width."""
    value = record.get(name)
    return None if value is None else 2 * float(record[f"{name}/{side}"]) - float(value)


def _difference(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above - below
