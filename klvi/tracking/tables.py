"""Measurements and samples as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from klvi.evaluation.evaluator import Evaluation
from klvi.metrics.catalogue import METRICS
from klvi.metrics.measurement import Measurement, Metric, Unavailable
from klvi.metrics.scores import shown
from klvi.metrics.split import GOLD
from klvi.samples import Samples
from klvi.terminal import printable as printable
from klvi.tracking.base import sample_rows
from klvi.tracking.numbers import number
from klvi.tracking.output import warning

PREFIX, OTHER = "eval/", "Other"
# A part of a shortfall that is so many times smaller than the other is shown as 0.
NEGLIGIBLE = 1000


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
        for name, meaning in rows:
            value, interval = _cells(measurements[name])
            known = [Text(number((exact or {}).get(name)))] if exact else []
            label = Text(f"  {name.removeprefix(PREFIX)}")
            table.add_row(label, Text(meaning), value, *known, interval)
    return table


def shortfall(measurements: Mapping[str, Metric]) -> Text | None:
    """A sentence on what a policy lacks of gold, and why; None where that was not measured."""
    found = [measurements.get(f"{PREFIX}{name}") for name in ("misspecified", "badly_approximated")]
    misspecified, approximated = found
    if not (isinstance(misspecified, Measurement) and isinstance(approximated, Measurement)):
        return None
    parts = (misspecified.value, approximated.value)
    smallest = max(map(abs, parts)) / NEGLIGIBLE
    whole, of_target, of_policy = (
        (number(value if abs(value) > smallest else 0.0), "bold") for value in (sum(parts), *parts)
    )
    line = Text.assemble(
        *("Of a shortfall of ", whole, " in gold, ", of_target, " is the target's (misspecified) "),
        *("and ", of_policy, " the policy's (badly approximated)"),
    )
    surplus = approximated.value < 0
    return line.append(": it has more gold than its target." if surplus else ".")


def evaluation_report(
    evaluation: Evaluation, title: str, confidence: float
) -> list[RenderableType]:
    """What is shown of an evaluation: its table, what is wrong with it, the sampler's numbers."""
    wrong = [] if evaluation.warning is None else [warning(evaluation.warning)]
    info = [Text(f"{name}: {value:g}", style="dim") for name, value in evaluation.info.items()]
    found = shortfall(evaluation.metrics)
    return [
        measurement_table(evaluation.metrics, evaluation.exact, title, confidence),
        *([] if found is None else [found]),
        *wrong,
        *info,
        *_path(evaluation),
    ]


def _path(evaluation: Evaluation) -> list[RenderableType]:
    """How far samples of the prior reach on the way to the target."""
    if not evaluation.path:
        return []
    count, sizes = evaluation.prior_samples, evaluation.path
    known = {f"{size:.0f}" for size in sizes.values()}
    line = f"effective of {count} samples of the prior, on the way to the target: " + ", ".join(
        f"{size:.0f} at {share:g}" for share, size in sizes.items()
    )
    if len(known) == 1:  # a hard constraint
        line = f"{known.pop()} of {count} samples of the prior are in the target"
    return [Text(line, style="dim")]


def sample_table(samples: Samples, title: str | None = None, longest: int | None = None) -> Table:
    """A row for each scored sample: reward, log-probabilities (nats per sequence), text.

    Texts are cut to `longest` characters; prompts stand dimmed before their completions.
    """
    table = _table(title)
    columns = {"reward": "reward", "log_policy": "log π", "log_prior": "log π0"}
    if GOLD in samples.scores:
        columns = {"reward": "reward", GOLD: GOLD, **columns}
    for heading in columns.values():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("text", overflow="fold")
    for row in sample_rows(samples):
        values = row | row.get("scores", {})
        table.add_row(
            *(Text(number(values[name])) for name in columns),
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
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each group with its metrics' names and meanings."""
    groups: dict[str, list[tuple[str, str]]] = {group: [] for group in _headings()}
    own = [(name, (spec.group, spec.meaning)) for name, spec in METRICS.items()]
    further = [(name, shown(name) or (OTHER, "")) for name in measurements if name not in METRICS]
    for name, (group, meaning) in (*own, *further):
        if name in measurements:
            groups.setdefault(group, []).append((name, meaning))
    return ((group, rows) for group, rows in groups.items() if rows)


def _headings() -> list[str]:
    """The groups in their order; those of what not every run has stand beside their like."""
    found = list(dict.fromkeys(spec.group for spec in METRICS.values()))
    for group, before in (("Features", "Reward"), ("Gold", "Target")):
        found.insert(found.index(before) + 1, group)
    return found


def _cells(metric: Metric) -> tuple[Text, Text]:
    if isinstance(metric, Unavailable):
        return Text("—", style="yellow"), Text("unavailable", style="yellow")
    interval = f"[{number(metric.low)}, {number(metric.high)}]"
    return Text(number(metric.value), style="bold"), Text(interval)


def _cut(text: str, longest: int | None) -> str:
    return text if longest is None or len(text) <= longest else f"{text[: longest - 1]}…"
