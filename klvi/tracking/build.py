"""A run's trackers."""

from __future__ import annotations

from klvi.registry import build
from klvi.tracking.base import Tracker, Trackers
from klvi.tracking.console import ConsoleTracker
from klvi.tracking.jsonl import JsonLines
from klvi.tracking.output import Output
from klvi.tracking.schema import TrackingSection


def build_tracker(section: TrackingSection, output: Output, resumed: int | None = None) -> Tracker:
    """All trackers of a run; `resumed` is the update of the checkpoint it goes on from, if any."""
    # The files come first, so that they are whole whatever happens to the others.
    trackers: list[Tracker] = [JsonLines(resumed), ConsoleTracker(output, resumed)]
    if hasattr(section, "builds"):
        trackers.append(build(section, output=output))
    return Trackers(trackers)
