"""A run's trackers from its configuration."""

from __future__ import annotations

from klvi.runs.schema import TrainConfig
from klvi.tracking.base import Tracker, Trackers
from klvi.tracking.console import ConsoleTracker
from klvi.tracking.jsonl import JsonLines
from klvi.tracking.output import Output
from klvi.tracking.schema import WandbTracking
from klvi.tracking.wandb import WandbTracker


def build_tracker(config: TrainConfig, output: Output, resumed: int | None = None) -> Tracker:
    """All trackers of a run; `resumed` is the update of the checkpoint it goes on from, if any."""
    # The files come first, so that they are whole whatever happens to the others.
    trackers: list[Tracker] = [JsonLines(resumed), ConsoleTracker(config, output, resumed)]
    if isinstance(config.tracking, WandbTracking):
        trackers.append(WandbTracker(config, config.tracking, output))
    return Trackers(trackers)
