"""The best policy of a run by a metric of its evaluations, kept beside the newest."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from klvi.errors import UserError
from klvi.files import names_in, read_json, whole_folder, write_whole
from klvi.files.checksums import damage, write_checksums
from klvi.metrics.catalogue import metrics_of
from klvi.metrics.measurement import Metric, Unavailable
from klvi.metrics.split import GOLD
from klvi.policy.policy import Policy
from klvi.spelling import suggestion
from klvi.terminal import tell

RECORD = "best.json"


@dataclass(frozen=True)
class Best:
    """An evaluation that was better than all before it.

    Attributes:
        update: after which it was.
        metric: by which it is compared.
        value: the metric's, which as the best of several lies too high, or too low, by chance.
    """

    update: int
    metric: str
    value: float


@dataclass(frozen=True)
class BestPolicy:
    """The folders `best-N` beside a run's checkpoints: adapters, each better than those before.

    Those since the newest checkpoint are all kept, as a run that goes on from there does their
    updates again; of older ones the best.

    Attributes:
        directory: of the checkpoints.
        metric: larger is better, unless the catalogue says otherwise.
    """

    directory: Path
    metric: str

    def offer(self, policy: Policy, update: int, metrics: Mapping[str, Metric]) -> str | None:
        """Keep the policy if it is better than any before; a line where that cannot be told.

        Raises RunError where the disk refuses it, and UserError where there is no such metric.
        """
        found = metrics.get(self.metric)
        if found is None:
            near = suggestion(self.metric, metrics)
            raise UserError(f"checkpoint.best={self.metric}: is not measured in this run{near}")
        if isinstance(found, Unavailable):
            return f"checkpoint.best={self.metric}: update {update} is left out: {found.reason}"
        best = Best(update, self.metric, found.value)
        before = self.best()
        if before is None or self._merit(best) > self._merit(before):
            with whole_folder(self._folder(best), replace=True) as building:
                policy.save_adapter(building)
                write_whole(building / RECORD, json.dumps(asdict(best)) + "\n")
                write_checksums(building)
        return None

    def best(self) -> Best | None:
        """The best of what is kept; None where there is nothing."""
        return max(self._kept(), key=self._merit, default=None)

    def load(self, best: Best, policy: Policy) -> None:
        """Give the policy the adapter that was best."""
        # The run has been asked about its prior where that has changed.
        policy.load_adapter(self._folder(best), any_prior=True)

    def settle(self) -> None:
        """Drop all but the best: a checkpoint is as new as any of them."""
        best = self.best()
        for other in self._updates():
            if best is None or other != best.update:
                self._drop(other)

    def go_back(self, update: int) -> None:
        """Drop those that are newer than the update from which the run goes on."""
        for other in self._updates():
            if other > update:
                self._drop(other)

    def _merit(self, best: Best) -> tuple[float, int]:
        """Of equally good ones the earliest is nearest to the prior."""
        spec = metrics_of({GOLD}).get(self.metric)
        smaller = spec is not None and spec.smaller
        return -best.value if smaller else best.value, -best.update

    def _updates(self) -> list[int]:
        found = map(re.compile(r"best-(0|[1-9][0-9]*)").fullmatch, names_in(self.directory))
        return sorted(int(match[1]) for match in found if match)

    def _kept(self) -> Iterator[Best]:
        for update in self._updates():
            folder = self.directory / f"best-{update}"
            problem = damage(folder, required=True)
            try:
                found = {} if problem else read_json(folder / RECORD)
                best = Best(update, str(found["metric"]), float(found["value"]))
            except (OSError, ValueError, LookupError, TypeError):
                problem = problem or f"{folder / RECORD} is damaged"
                tell(f"warning: {problem}: it is not taken for the best")
                continue
            if best.metric == self.metric and math.isfinite(best.value):
                yield best

    def _folder(self, best: Best) -> Path:
        return self.directory / f"best-{best.update}"

    def _drop(self, update: int) -> None:
        shutil.rmtree(self.directory / f"best-{update}", ignore_errors=True)
