"""Tracking: a run's console, its files, and wandb."""

from __future__ import annotations

from klvi.config.schema import TrainConfig, WandbTracking
from klvi.tracking.base import FINISHED, Tracker, Trackers, exact_entries, flatten
from klvi.tracking.console import ConsoleTracker
from klvi.tracking.jsonl import JsonLines
from klvi.tracking.output import Output, warning
from klvi.tracking.tables import measurement_table, sample_table
from klvi.tracking.wandb import WandbTracker

__all__ = [
    "FINISHED",
    "ConsoleTracker",
    "JsonLines",
    "Output",
    "Tracker",
    "Trackers",
    "WandbTracker",
    "build_tracker",
    "exact_entries",
    "flatten",
    "measurement_table",
    "sample_table",
    "warning",
]


def build_tracker(config: TrainConfig, output: Output, resumed: int | None = None) -> Tracker:
    """All trackers of a run; `resumed` is the update of the checkpoint it goes on from, if any."""
    # The files come first, so that they are whole whatever happens to the others.
    trackers: list[Tracker] = [JsonLines(resumed), ConsoleTracker(config, output, resumed)]
    if isinstance(config.tracking, WandbTracking):
        trackers.append(WandbTracker(config, config.tracking, output))
    return Trackers(trackers)
