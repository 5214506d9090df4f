"""Measurements and samples as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from klvi.evaluation.evaluator import Evaluation
from klvi.metrics.catalogue import METRICS
from klvi.metrics.measurement import Metric, Unavailable
from klvi.samples import Samples
from klvi.terminal import printable as printable
from klvi.tracking.base import sample_rows
from klvi.tracking.numbers import number
from klvi.tracking.output import warning

PREFIX = "eval/"


def measurement_table(
    measurements: Mapping[str, Metric],
    exact: Mapping[str, float | None] | None = None,
    title: str | None = None,
    confidence: float = 0.95,
) -> Table:
    """A row for each metric, in groups, with its interval and, where given, its exact value.

    Below the table stands why a metric is unavailable.
    """
    table = _table(title)
    table.caption = _reasons(measurements)
    table.add_column("metric", no_wrap=True)
    table.add_column("", style="dim", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    if exact:
        table.add_column("exact", justify="right", style="cyan", no_wrap=True)
    table.add_column(f"{100 * confidence:g}% interval", overflow="fold")
    for group, rows in _grouped(measurements):
        table.add_row(Text(group, style="bold blue"))
        for name, meaning, metric in rows:
            value, interval = _cells(metric)
            known = [Text(number(exact.get(PREFIX + name, exact.get(name))))] if exact else []
            table.add_row(Text(f"  {name}"), Text(meaning), value, *known, interval)
    return table


def evaluation_report(
    evaluation: Evaluation, title: str, confidence: float
) -> list[RenderableType]:
    """What is shown of an evaluation: its table, what is wrong with it, the sampler's numbers."""
    wrong = [] if evaluation.warning is None else [warning(evaluation.warning)]
    info = [Text(f"{name}: {value:g}", style="dim") for name, value in evaluation.info.items()]
    return [
        measurement_table(evaluation.metrics, evaluation.exact, title, confidence),
        *wrong,
        *info,
    ]


def sample_table(samples: Samples, title: str | None = None, longest: int | None = None) -> Table:
    """A row for each scored sample: reward, log-probabilities (nats per sequence), text.

    Texts are cut to `longest` characters; prompts stand dimmed before their completions.
    """
    table = _table(title)
    for heading in ("reward", "log π", "log π0"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("text", overflow="fold")
    for row in sample_rows(samples):
        table.add_row(
            *(Text(number(row[name])) for name in ("reward", "log_policy", "log_prior")),
            Text.assemble((printable(row["prompt"]), "dim"), _cut(printable(row["text"]), longest)),
        )
    return table


def _table(title: str | None) -> Table:
    return Table(
        title=None if title is None else Text(title, style="bold"),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
    )


def _reasons(measurements: Mapping[str, Metric]) -> Text | None:
    metrics: dict[str, list[str]] = {}
    for name, metric in measurements.items():
        if isinstance(metric, Unavailable):
            metrics.setdefault(metric.reason, []).append(name.removeprefix(PREFIX))
    lines = [f"{', '.join(names)} unavailable: {reason}" for reason, names in metrics.items()]
    return Text("\n".join(lines) + "\n", style="not italic yellow") if lines else None


def _grouped(
    measurements: Mapping[str, Metric],
) -> Iterator[tuple[str, list[tuple[str, str, Metric]]]]:
    rest = dict(measurements)
    for group in dict.fromkeys(spec.group for spec in METRICS.values()):
        rows = [
            (name.removeprefix(PREFIX), spec.meaning, rest.pop(name))
            for name, spec in METRICS.items()
            if spec.group == group and name in rest
        ]
        if rows:
            yield group, rows
    if rest:
        yield "Other", [(name.removeprefix(PREFIX), "", metric) for name, metric in rest.items()]


def _cells(metric: Metric) -> tuple[Text, Text]:
    if isinstance(metric, Unavailable):
        return Text("—", style="yellow"), Text("unavailable", style="yellow")
    interval = f"[{number(metric.low)}, {number(metric.high)}]"
    return Text(number(metric.value), style="bold"), Text(interval)


def _cut(text: str, longest: int | None) -> str:
    return text if longest is None or len(text) <= longest else f"{text[: longest - 1]}…"
