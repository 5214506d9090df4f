"""What a tracker is, and how an evaluation becomes part of an update's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from klvi.metrics.measurement import Metric, Unavailable
from klvi.samples import Samples

Record = Mapping[str, Any]
FINISHED = "finished"


class Tracker(Protocol):
    """Follows one run; `start` comes first, and `finish` last, however the run ends."""

    def start(self, config: Mapping[str, Any], directory: Path) -> None:
        """Begin, or go on, with the run of the resolved `config` in the folder `directory`."""
        ...

    def log_update(self, record: Record) -> None:
        """Take an update's record, `flatten`ed measurements included where it was evaluated."""
        ...

    def log_evaluation(
        self, update: int, measurements: Mapping[str, Metric], samples: Samples
    ) -> None:
        """Take the measurements after `update` updates and the scored samples behind them."""
        ...

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End with what `summary.json` holds; its `status` is `finished` where all went well."""
        ...


@dataclass(frozen=True)
class Trackers:
    """Several trackers as one, told everything in their order."""

    members: Sequence[Tracker]
    _started: list[Tracker] = field(default_factory=list, init=False)

    def start(self, config: Mapping[str, Any], directory: Path) -> None:
        """Tell all members."""
        for member in self.members:
            self._started.append(member)
            member.start(config, directory)

    def log_update(self, record: Record) -> None:
        """Tell all members."""
        for member in self.members:
            member.log_update(record)

    def log_evaluation(
        self, update: int, measurements: Mapping[str, Metric], samples: Samples
    ) -> None:
        """Tell all members."""
        for member in self.members:
            member.log_evaluation(update, measurements, samples)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Tell all members that were started, whatever becomes of one; raises the first error."""
        errors = []
        for member in self._started:
            try:
                member.finish(summary)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


def flatten(measurements: Mapping[str, Metric]) -> dict[str, float | str | None]:
    """Measurements as entries of a record: `x`, `x/low`, `x/high`, or null `x` and `x/reason`."""
    entries: dict[str, float | str | None] = {}
    for name, metric in measurements.items():
        if isinstance(metric, Unavailable):
            entries |= {name: None, f"{name}/reason": metric.reason}
        else:
            entries |= {name: metric.value, f"{name}/low": metric.low, f"{name}/high": metric.high}
    return entries


def exact_entries(exact: Mapping[str, float | None]) -> dict[str, float | None]:
    """Exact values as entries of a record: that of `eval/x` is `exact/x`."""
    return {f"exact/{name.removeprefix('eval/')}": value for name, value in exact.items()}


def sample_rows(samples: Samples) -> list[dict[str, Any]]:
    """A row for each scored sample; log-probabilities in nats per sequence.

    What scores there are beside the reward stand under `scores`.
    """
    columns = {
        "prompt": samples.prompts,
        "text": samples.texts,
        "reward": samples.reward.tolist(),
        "log_policy": samples.log_policy_sequence.tolist(),
        "log_prior": samples.log_prior_sequence.tolist(),
    }
    further = {name: v.tolist() for name, v in samples.scores.items() if name != "reward"}
    if further:
        rows = zip(*further.values(), strict=True)
        columns["scores"] = [dict(zip(further, row, strict=True)) for row in rows]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
