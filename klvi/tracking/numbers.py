"""Numbers and times as people read them. Nothing here imports torch."""

from __future__ import annotations

import math

# Below it, a number of order 1 is a sum's rounding.
ROUNDING = 1e-12
CENTUM, MILLE = 100, 1000
MINUTE, HOUR = 60, 3600


def number(value: float | None) -> str:
    """A number at a glance: three decimals, fewer if it is large, an exponent if it is tiny."""
    if value is None or math.isnan(value):
        return "—"
    if abs(value) < ROUNDING:
        value = 0.0
    if value != 0 and abs(value) < 1 / MILLE:
        return f"{value:.1e}"
    if abs(value) >= MILLE:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= CENTUM else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03 or 2:03."""
    whole = int(seconds)
    hours, minutes = whole // HOUR, whole % HOUR // MINUTE
    if hours:
        return f"{hours}:{minutes:02}:{whole % MINUTE:02}"
    return f"{minutes}:{whole % MINUTE:02}"
