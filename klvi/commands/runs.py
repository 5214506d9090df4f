"""`klvi runs`: list the runs below a folder, or those that filters choose, as a table or JSON."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rich import box
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from klvi.config.keys import spelled
from klvi.config.run_filters import (
    METRICS,
    OWN,
    Query,
    in_order,
    known_keys,
    matches,
    metric,
    metric_name,
    parse_query,
    unknown_names,
    value_of,
)
from klvi.config.stored_run import migrated
from klvi.config.values import validate
from klvi.errors import UserError
from klvi.files import to_json
from klvi.quoting import command
from klvi.runs.listing import BROKEN, RUNNING, STATUSES, STOPPED, ListedRun, listed_runs
from klvi.runs.schema import TrainConfig
from klvi.schema import names_of, sections_of
from klvi.terminal import printable, put
from klvi.tracking.numbers import number
from klvi.tracking.output import Output

# What tells runs apart: a column where they differ, else a line above the table.
SETTINGS = ("objective", "target", "reward", "gold", "model", "beta", "seed")
GROUPS = SETTINGS[:5]  # whose choices speak for themselves
DATED = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
REASONS = 5  # that are told below the table
UNBOUNDED = 10_000  # columns of a file or a pipe
HELP = """klvi runs: list the runs below a folder, newest first. It only reads.

Usage
  klvi runs [key=value[,value ...] ...] [root=DIR] [sort=key] [metrics=name,...] [--json]

Examples
  klvi runs
  klvi runs objective=kl beta=0.1,0.3 status=finished
  klvi runs name=paris sort=eval/kl_target_reverse
  klvi runs root=runs/sweep metrics=eval/reward,eval/gold
  klvi runs status=stopped --json

Keys
  key=value,...           only runs whose configuration has one of these values: any key of klvi
                          train, such as objective, reward.text, optim.lr
  status                  finished, running, stopped (killed: klvi resume goes on), interrupted,
                          failed, broken
  root                    the folder in which runs are looked for, at any depth  [runs]
  sort                    a key or a metric, ascending; -key: descending  [-started]
  metrics                 the columns of the table
                          [eval/reward,eval/kl_prior,eval/kl_target_reverse,eval/kl_target_forward]

Flags, in any place
  --json                  an array of objects with folder, status, config, metrics and more
  --help                  this text"""


def main(words: Sequence[str], options: argparse.Namespace) -> int:
    """Print the runs that `words` ask for; raises UserError with a line for each that is wrong."""
    if options.help:
        put(HELP)
        return 0
    query, problems = parse_query(words, options)
    found = listed_runs(query.root) if query.root.is_dir() else ()
    runs = [_checked(run) for run in found]
    problems += unknown_names(query, runs)
    if problems:
        raise UserError(*problems)
    chosen = in_order([run for run in runs if matches(run, query.filters)], query.sort)
    if options.dry_run:
        put("klvi runs: no problem found; nothing was listed")
    elif options.json:
        put(to_json([_object(run) for run in chosen], indent=2))
    elif not chosen:
        put(_none_found(query, len(runs)))
    else:
        show(query, chosen)
    return 0


def _checked(run: ListedRun) -> ListedRun:
    """With its configuration as the present klvi spells it; broken where it makes no sense."""
    if not run.config:
        return run
    config = migrated(run.config)
    problems = validate(TrainConfig, config).problems
    if problems:
        return replace(run, config=config, status=BROKEN, reason=f"config.yaml: {problems[0]}")
    return replace(run, config=config)


def _object(run: ListedRun) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "name": run.config.get("name"),
        "status": run.status,
        "reason": run.reason,
        "started": run.started,
        "update": run.update,
        "updates": run.config.get("updates"),
        "seconds": run.seconds,
        "metrics": run.metrics,
        "exact": run.exact,
        "config": run.config,
    }


def _none_found(query: Query, others: int) -> str:
    if others:
        asked = " ".join(
            f"{key}={','.join(map(spelled, values))}" for key, values in query.filters.items()
        )
        return f"none of the {others} runs in {query.root}/ has {asked}"
    return f"no runs in {query.root}/; klvi train makes one"


def show(query: Query, runs: Sequence[ListedRun]) -> None:
    """Print a table: a row per run, what all of them share above it, what went wrong below.

    Where the terminal is narrow, what tells runs apart stands below their folders.
    """
    output = Output()
    if not output.terminal.is_terminal:
        output.terminal.width = UNBOUNDED
    values = {key: [_shown(run, key) for run in runs] for key in _shown_keys(query, runs)}
    distinct = {key: set(filter(None, found)) for key, found in values.items()}
    line = Text(f"{len(runs)} run{'s' if len(runs) > 1 else ''} in {query.root}/", style="bold")
    for key, found in distinct.items():
        if len(found) == 1:
            line.append(f" {key}=", style="not bold dim").append(
                next(iter(found)), style="not bold"
            )
    own = {key: values[key] for key, found in distinct.items() if len(found) > 1}
    table = _table(query, runs, own, narrow=False)
    unbounded = output.terminal.options.update(max_width=UNBOUNDED)
    needed = Measurement.get(output.terminal, unbounded, table).maximum
    if needed > output.terminal.width:
        table = _table(query, runs, own, narrow=True)
    output.print(line)
    output.print(table)
    for text in _remarks(runs):
        output.print(Text(text, style="dim"))


def _table(
    query: Query, runs: Sequence[ListedRun], own: Mapping[str, Sequence[str]], *, narrow: bool
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0 if narrow else (0, 1, 0, 0))
    table.add_column("run", overflow="fold", min_width=12)
    table.add_column("status", no_wrap=True)
    table.add_column("update", justify="right", no_wrap=True)
    for key in () if narrow else own:
        table.add_column(Text(key), overflow="fold")
    for name in query.metrics:
        heading = METRICS.get(name, name.removeprefix("eval/")).replace("(", "\n(")
        table.add_column(Text(heading), justify="right", no_wrap=not narrow)
    for row, run in enumerate(runs):
        folder = Text(printable(str(run.folder)))
        cells = {key: found[row] for key, found in own.items()}
        if narrow:
            told = [value if key in GROUPS else f"{key}={value}" for key, value in cells.items()]
            folder.append("".join(["\n ", *(f" {text}" for text in told)]) if run.config else "")
        table.add_row(
            folder,
            Text(run.status, style=_style(run.status)),
            _progress(run),
            *(Text(value) for value in cells.values() if not narrow),
            *(_cell(run, name) for name in query.metrics),
        )
    return table


def _cell(run: ListedRun, name: str) -> str:
    """An estimate; a dash where it is unavailable, nothing where it was not measured."""
    measured = metric_name(name, set(run.metrics)) is not None
    return number(metric(run, name)) if measured else ""


def _shown_keys(query: Query, runs: Sequence[ListedRun]) -> list[str]:
    """Name and time only where not all folders tell them."""
    asked = [key for key in query.filters if key != "status"]
    named = all(str(run.config.get("name", "")) in run.folder.parts for run in runs if run.config)
    dated = all(DATED.search(str(run.folder)) for run in runs)
    untold = [*([] if named else ["name"]), *([] if dated else ["started"])]
    settings = [key for key in SETTINGS if any(value_of(run, key) is not None for run in runs)]
    return list(dict.fromkeys([*untold, *settings, *asked]))


def _shown(run: ListedRun, key: str) -> str:
    if key == "started":
        started = datetime.fromisoformat(run.started).astimezone() if run.started else None
        return f"{started:%Y-%m-%d %H:%M}" if started else ""
    return printable(spelled(value_of(run, key))) if run.config else ""


def _style(status: str) -> str:
    return {"finished": "green", RUNNING: "cyan", STOPPED: "yellow"}.get(status, "red")


def _progress(run: ListedRun) -> str:
    updates = run.config.get("updates")
    done = "" if run.update is None else str(run.update)
    whole = not isinstance(updates, int) or run.update == updates or run.status == BROKEN
    return done if whole else f"{done or 0}/{updates}"


def _remarks(runs: Sequence[ListedRun]) -> Iterator[str]:
    told = [run for run in runs if run.reason and run.status != "finished"]
    for run in told[:REASONS]:
        yield printable(f"{run.folder}: {run.reason}")
    if len(told) > REASONS:
        yield f"and {len(told) - REASONS} more, whose reasons --json tells"
    left = [run for run in runs if run.status in {STOPPED, "interrupted"}]
    if left:
        yield f"{command('resume', run=left[0].folder)} goes on with one that has stopped"


def completions(word: str) -> Iterator[str]:
    """What may be typed for the word that has been begun."""
    key, equals, value = word.partition("=")
    if not equals:
        keys = [*OWN, "status", *known_keys(TrainConfig)]
        yield from dict.fromkeys(f"{name}=" for name in keys if name.startswith(word))
        return
    field = TrainConfig.model_fields.get(key)
    sections = sections_of(field.annotation) if field else []
    choices = STATUSES if key == "status" else [n for s in sections for n in names_of(s)]
    yield from (f"{key}={choice}" for choice in choices if choice.startswith(value))
