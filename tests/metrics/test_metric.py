"""A metric of another package that fails is named."""

from __future__ import annotations

import re
from typing import Any

import pytest

from klvi.errors import UserError
from klvi.metrics.catalogue import METRICS
from klvi.metrics.metric import MetricSpec, naming_metric


def fails(_: Any) -> float:
    return 1 / 0


def test_what_another_packages_metric_raises_names_it() -> None:
    spec = MetricSpec(
        name="eval/mine", unit="share", group="Text", meaning="mine", exact=fails, estimate=fails
    )
    line = f"metric eval/mine ({__name__}): ZeroDivisionError: division by zero; mend or uninstall"
    with pytest.raises(UserError, match=re.escape(line)), naming_metric(spec):
        fails(None)
    with pytest.raises(ZeroDivisionError), naming_metric(METRICS["eval/reward"]):
        fails(None)
