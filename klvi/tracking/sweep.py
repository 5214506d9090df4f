"""The table that closes a multirun, read from the folders of its jobs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from klvi.runs.stored import read_json
from klvi.terminal import printable
from klvi.tracking.base import FINISHED
from klvi.tracking.output import Output
from klvi.tracking.progress import duration
from klvi.tracking.tables import PREFIX, number

COLUMNS = {
    "reward": "reward",
    "KL\n(π‖π0)": "kl_prior",
    "KL\n(π‖p)": "kl_target_reverse",
    "KL\n(p‖π)": "kl_target_forward",
    "entropy": "entropy",
    "repe-\ntition": "repetition_2",
}


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
        return {"status": "broken summary"} | read_json(directory / "summary.json")
    except OSError:
        return {"status": "no summary"}
    except ValueError:
        return {"status": "broken summary"}


def sweep_table(jobs: Sequence[Mapping[str, str]], summaries: Sequence[Mapping[str, Any]]) -> Table:
    """A row per job: what is its own, how it ended, its last evaluation (nats per sequence)."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("job", justify="right", no_wrap=True)
    own = {key: _shortened([job[key] for job in jobs]) for key in (jobs[0] if jobs else {})}
    for key in own:
        table.add_column(Text(key), overflow="fold", min_width=4)
    table.add_column("status", no_wrap=True)
    for heading in (*COLUMNS, "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, summary in enumerate(summaries):
        status = str(summary["status"])
        seconds = summary.get("seconds")
        table.add_row(
            str(index),
            *(Text(values[index]) for values in own.values()),
            Text(status, style="green" if status == FINISHED else "bold red"),
            *(_value(summary, name) for name in COLUMNS.values()),
            "" if seconds is None else duration(seconds),
        )
    return table


def _shortened(values: Sequence[str]) -> list[str]:
    """Without the folder, or the file, that all of them are in."""
    parts = [re.split("(?<=[/:])", value) for value in values]
    columns = zip(*(part[:-1] for part in parts), strict=False)
    shared = len(list(itertools.takewhile(lambda column: len(set(column)) == 1, columns)))
    return ["".join(part[shared:]) for part in parts]


def _value(summary: Mapping[str, Any], name: str) -> str:
    metric = summary.get("metrics", {}).get(PREFIX + name)
    return "" if metric is None else number(metric["value"])
