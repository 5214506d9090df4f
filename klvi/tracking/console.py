"""What a person sees of a run: a progress bar, a line per evaluation, and tables at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.text import Text

from klvi.metrics.catalogue import METRICS
from klvi.metrics.measurement import Metric, Unavailable
from klvi.metrics.metric import MetricSpec
from klvi.quoting import command
from klvi.samples import Samples
from klvi.tracking.base import FINISHED, Record
from klvi.tracking.numbers import duration, number
from klvi.tracking.output import Output
from klvi.tracking.progress import UpdateProgress, rate
from klvi.tracking.tables import PREFIX, measurement_table, sample_table, shortfall

LOG_FILE = "run.log"
SHOWN_SAMPLES, MAX_TEXT = 3, 400
LINES, MAX_SILENCE_SECONDS = 10, 60.0
WIDTH = 11


@dataclass(frozen=True)
class Evaluation:
    """The latest measurements, to be shown when the run ends."""

    update: int
    measurements: Mapping[str, Metric]
    samples: Samples


class ConsoleTracker:
    """Shows a run on the console and in `run.log`."""

    def __init__(self, output: Output, resumed: int | None = None) -> None:
        self._output = output
        self._update = resumed or 0
        self._started = self._last_line = time.monotonic()
        self._progress: UpdateProgress | None = None
        self._evaluation: Evaluation | None = None
        self._directory = Path()
        self._config: Mapping[str, Any] = {}

    def start(self, config: Mapping[str, Any], directory: Path) -> None:
        """Print what runs and where; show the progress bar where one can move."""
        self._config, self._directory = config, directory
        self._output.copy_to(directory / LOG_FILE)
        self._output.print(_headline(config))
        self._output.print(Text(f"{directory}", style="dim"))
        headings = "".join(f"{spec.column:>{WIDTH}}" for spec in self._columns)
        self._output.print(Text(f"\n{'update':>7}{headings}{'time':>7}", style="bold"))
        self._started = self._last_line = time.monotonic()
        if self._output.live:
            name, updates = config["objective"]["name"], config["updates"]
            self._progress = UpdateProgress(self._output.terminal, name, updates, self._update)
            self._output.show(self._progress)

    def log_update(self, record: Record) -> None:
        """Move the bar; without one, and in the log, print a line now and then."""
        self._update = record["update"]
        if self._progress is not None:
            self._progress.show(record)
        if f"{PREFIX}reward" in record or not self._line_is_due():
            return
        self._last_line = time.monotonic()
        values = [record.get(spec.update) if spec.update else None for spec in self._columns]
        line = Text(self._line(values))
        line.append(f"  {rate(record)}")
        self._output.log(line) if self._output.live else self._output.print(line)

    def log_evaluation(
        self, update: int, measurements: Mapping[str, Metric], samples: Samples
    ) -> None:
        """Print a line of the measurements, and keep all for the end."""
        self._update = update
        self._evaluation = Evaluation(update, measurements, samples)
        values = [_value(measurements.get(spec.name)) for spec in self._columns]
        line = Text(self._line(values), style="bold").append("  evaluated", style="green")
        self._output.print(line)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Print the table of the last evaluation, three of its samples, and how the run ended."""
        self._output.stop()
        if self._evaluation is not None:
            self._show(self._evaluation, summary.get("exact"))
        status = str(summary["status"])
        style = "bold green" if status == FINISHED else "bold red"
        elapsed = duration(time.monotonic() - self._started)
        updates = summary.get("update", self._update)
        ending = Text.assemble((status, style), f" after {updates} updates in {elapsed}")
        self._output.print(ending)
        place = f"{self._directory}"
        if status != FINISHED and not any(self._directory.glob("checkpoints/step-*")):
            return  # there is nothing to go on from
        if status != FINISHED:
            place = command("resume", run=self._directory)
        self._output.print(Text(place, style="dim"))

    def _show(self, evaluation: Evaluation, exact: Mapping[str, float | None] | None) -> None:
        size, count = len(evaluation.samples), min(SHOWN_SAMPLES, len(evaluation.samples))
        title = f"{_title(self._config)}: update {evaluation.update}, {size} samples"
        confidence = self._config["evaluation"]["confidence"]
        table = measurement_table(evaluation.measurements, exact, title, confidence)
        shown = evaluation.samples.select(torch.arange(count))
        texts = sample_table(shown, f"{count} samples", MAX_TEXT)
        self._output.print("")
        self._output.print(table)
        found = shortfall(evaluation.measurements)
        if found is not None:
            self._output.print(found)
            self._output.print("")
        self._output.print(texts)

    def _line(self, values: list[float | None]) -> str:
        cells = "".join(f"{'' if value is None else number(value):>{WIDTH}}" for value in values)
        return f"{self._update:>7}{cells}{duration(time.monotonic() - self._started):>7}"

    @property
    def _columns(self) -> list[MetricSpec]:
        return METRICS.columns(gold=self._config.get("gold") is not None)

    def _line_is_due(self) -> bool:
        every = max(1, self._config["updates"] // LINES)
        silence = time.monotonic() - self._last_line
        return self._update % every == 0 or silence > MAX_SILENCE_SECONDS


def _value(metric: Metric | None) -> float | None:
    """A cell of an evaluation's line: an unavailable metric shows as a dash, an absent one not."""
    if metric is None:
        return None
    return math.nan if isinstance(metric, Unavailable) else metric.value


def _title(config: Mapping[str, Any]) -> str:
    objective, model = config["objective"]["name"], config["model"]["name"]
    return f"objective={objective} model={model} beta={config['beta']:g}"


def _headline(config: Mapping[str, Any]) -> Text:
    """What runs, in the words of the command line."""
    groups = ("objective", "target", "reward", "gold", "model")
    parts = {
        **{group: config[group]["name"] for group in groups if config.get(group) is not None},
        "beta": f"{config['beta']:g}",
        "seed": str(config["seed"]),
        "updates": str(config["updates"]),
    }
    line = Text("klvi train", style="bold")
    for name, value in parts.items():
        line.append(f" {name}=", style="not bold dim").append(value, style="not bold cyan")
    return line
