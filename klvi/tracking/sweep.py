"""The table that closes a multirun, read from the folders of its jobs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from klvi.files import read_json
from klvi.metrics.catalogue import METRICS
from klvi.terminal import printable
from klvi.tracking.base import FINISHED
from klvi.tracking.numbers import duration, number
from klvi.tracking.output import Output

# Letters of a heading above which it takes a second line.
MAX_HEADING = 8


def print_sweep(directory: Path, jobs: Sequence[Mapping[str, str]], output: Output) -> bool:
    """Print a row per job, and why jobs failed; returns whether all have finished.

    `jobs` holds for each job the keys in which it differs from the others, and their values.
    """
    summaries = [read_summary(directory / str(number)) for number in range(len(jobs))]
    output.print("")
    output.terminal.print(sweep_table(jobs, summaries))
    for index, summary in enumerate(summaries):
        if summary.get("reason"):
            output.print(Text(f"job {index}: {printable(str(summary['reason']))}", style="red"))
    output.print(Text(str(directory), style="dim"))
    return all(summary["status"] == FINISHED for summary in summaries)


def read_summary(directory: Path) -> Mapping[str, Any]:
    """A job's `summary.json`; of a job that left none, that it was not run to an end."""
    try:
        summary = read_json(directory / "summary.json")
    except FileNotFoundError:
        return {"status": "no summary"}
    except (OSError, ValueError):
        return {"status": "broken summary"}
    return summary if isinstance(summary.get("status"), str) else {"status": "broken summary"}


def sweep_table(jobs: Sequence[Mapping[str, str]], summaries: Sequence[Mapping[str, Any]]) -> Table:
    """A row per job: what is its own, how it ended, its last evaluation (nats per sequence)."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("job", justify="right", no_wrap=True)
    own = {key: _shortened([job[key] for job in jobs]) for key in (jobs[0] if jobs else {})}
    for key in own:
        table.add_column(Text(key), overflow="fold", min_width=4)
    table.add_column("status", no_wrap=True)
    gold = any("eval/gold" in (summary.get("metrics") or ()) for summary in summaries)
    columns = METRICS.columns(gold=gold)
    for heading in (*(_narrow(str(spec.column)) for spec in columns), "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, summary in enumerate(summaries):
        status = str(summary["status"])
        seconds = _number(summary.get("seconds"))
        table.add_row(
            str(index),
            *(Text(values[index]) for values in own.values()),
            Text(printable(status), style="green" if status == FINISHED else "bold red"),
            *(_value(summary, spec.name) for spec in columns),
            "" if seconds is None else duration(seconds),
        )
    return table


def _shortened(values: Sequence[str]) -> list[str]:
    """Without the folder, or the file, that all of them are in."""
    parts = [re.split("(?<=[/:])", value) for value in values]
    columns = zip(*(part[:-1] for part in parts), strict=False)
    shared = len(list(itertools.takewhile(lambda column: len(set(column)) == 1, columns)))
    return ["".join(part[shared:]) for part in parts]


def _narrow(heading: str) -> str:
    """A heading in two lines where it is wide."""
    if "(" in heading:
        return heading.replace("(", "\n(")
    half = len(heading) // 2 - 1
    return heading if len(heading) <= MAX_HEADING else f"{heading[:half]}-\n{heading[half:]}"


def _value(summary: Mapping[str, Any], name: str) -> str:
    metrics = summary.get("metrics")
    metric = metrics.get(name) if isinstance(metrics, Mapping) else None
    return number(_number(metric.get("value"))) if isinstance(metric, Mapping) else ""


def _number(value: object) -> float | None:
    """A number of a summary's, which anybody may have edited; None for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)
