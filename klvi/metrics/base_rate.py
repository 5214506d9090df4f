"""What samples say of an event that none of them is."""

from __future__ import annotations

import math

CONFIDENCE = 0.95


def base_rate_bound(count: int, confidence: float = CONFIDENCE) -> float:
    """Upper bound on the probability of what none of `count` independent samples was.

    1 − (1 − confidence)^(1/count), which is the rule of three, 3/count, at 95% (Hanley and
    Lippman-Hand 1983).
    """
    return -math.expm1(math.log(1 - confidence) / count)
