"""What targets with fitted parameters share."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from klvi.metrics.measurement import Measurement
from klvi.samples import Samples


def due(update: int, updates: int, every: int | None) -> bool:
    """Whether what is fitted `every` so many updates is before `update`: not in the last third,
    in which the policy approaches a target that stands still.
    """
    return every is not None and update % every == 0 and 3 * update <= 2 * updates


def log_weight(samples: Samples) -> Tensor:
    """`(N,)` log π0(x) less the log-density of what drew x: nats per sequence, on the CPU."""
    return (samples.log_prior_sequence - samples.log_drawn).cpu()


def measured(value: float, half: float, count: int) -> Measurement:
    """A fitted number, with half the width of its interval, from `count` samples."""
    return Measurement(value, value - half, value + half, count)


def constant(value: float, count: int) -> Measurement:
    """A number that a fit of `count` samples is known by, without an error of its own."""
    return Measurement(value, value, value, count)


def number(value: Any) -> Any:
    """A finite number of a stored state; raises ValueError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return value
