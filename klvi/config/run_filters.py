"""Which runs `klvi runs` lists, in what order: filters on the keys of their configurations."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException

from klvi.config.consistency import flat
from klvi.config.keys import RENAMED, open_keys, spelled
from klvi.runs.listing import STATUSES, ListedRun
from klvi.runs.schema import TrainConfig
from klvi.schema import sections_of
from klvi.spelling import suggestion

ROOT = "runs"
OWN = ("root", "sort", "metrics")
OF_A_RUN = ("status", "started", "update", "seconds")
# The columns that are shown unless others are asked for, and what stands above them.
METRICS = {
    "eval/reward": "reward",
    "eval/kl_prior": "KL(π‖π0)",
    "eval/kl_target_reverse": "KL(π‖p)",
    "eval/kl_target_forward": "KL(p‖π)",
}


@dataclass(frozen=True)
class Query:
    """What is asked for.

    Attributes:
        filters: the values that a key may have, by key.
        sort: a key or a metric, after a `-` for descending.
    """

    root: Path
    filters: Mapping[str, Sequence[Any]]
    sort: str = "-started"
    metrics: tuple[str, ...] = tuple(METRICS)


def parse_query(words: Sequence[str], options: argparse.Namespace) -> tuple[Query, list[str]]:
    """What the words ask for, whose keys may still be none, and a line for each that is wrong."""
    problems = [
        f"--{name.replace('_', '-')}: klvi runs has no use for it"
        for name, given in vars(options).items()
        if given and name not in {"overrides", "help", "json", "dry_run"}
    ]
    own: dict[str, str] = {}
    filters: dict[str, list[Any]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or not (key[0].isalpha() or key[0] == "_"):
            problems.append(f"{word}: give KEY=VALUE, such as objective=kl")
        elif key in OWN and not value:
            problems.append(f"{word}: has no value")
        elif key in OWN:
            own[key] = value
        else:
            try:
                filters[key] = _values(word)
            except (HydraException, ValueError):
                problems.append(f"{word}: cannot be read; put quotes around the value")
    root = Path(own.get("root", ROOT))
    if "root" in own and not root.is_dir():
        problems.append(f"root={root}: no such folder")
    metrics = tuple(filter(None, own.get("metrics", ",".join(METRICS)).split(",")))
    return Query(root, filters, own.get("sort", "-started"), metrics), problems


def _values(word: str) -> list[Any]:
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return [override.value()]
    if not override.is_discrete_sweep() or not hasattr(override.value(), "list"):
        raise ValueError("an interval")
    return [v.text if isinstance(v, QuotedString) else v for v in override.value().list]


def known_keys(schema: type[Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a configuration, of all choices of all groups."""
    for name, field in schema.model_fields.items():
        yield f"{prefix}{name}"
        for section in sections_of(field.annotation):
            yield from known_keys(section, f"{prefix}{name}.")


def unknown_names(query: Query, runs: Sequence[ListedRun]) -> list[str]:
    """A line for each key, status and metric that there is not."""
    free = tuple(f"{key}." for key, _ in open_keys(TrainConfig))
    known = {*known_keys(TrainConfig), *(key for run in runs for key, _ in flat(run.config))}
    problems = []
    for key in query.filters:
        if key in RENAMED:
            problems.append(f"{key}: is now {RENAMED[key].removesuffix('.name')}")
        elif key not in known | {"status"} and not key.startswith(free):
            problems.append(f"{key}: unknown key{suggestion(key, [*known, *OWN, 'status'])}")
    for status in query.filters.get("status", ()):
        if status not in STATUSES:
            words = ", ".join(STATUSES)
            near = suggestion(str(status), STATUSES)
            problems.append(f"status={spelled(status)}: must be one of {words}{near}")
    measured = {name for run in runs for name in run.metrics} | set(METRICS)
    if runs:
        wrong = [name for name in query.metrics if metric_name(name, measured) is None]
        problems += [f"metrics={n}: no run has it{suggestion(n, measured)}" for n in wrong]
    key = query.sort.removeprefix("-")
    sortable = known | measured | set(OF_A_RUN) | {"folder"}
    if key not in sortable and metric_name(key, measured) is None:
        problems.append(f"sort={query.sort}: unknown key{suggestion(key, sortable)}")
    return problems


def metric_name(name: str, measured: set[str]) -> str | None:
    """The name of a metric, which may be given without `eval/`."""
    return next((full for full in (name, f"eval/{name}") if full in measured), None)


def value_of(run: ListedRun, key: str) -> Any:
    """What a run has under a key, of a group the choice's name; None where it has nothing."""
    if key in OF_A_RUN:
        return getattr(run, key)
    value: Any = run.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value.get("name", value) if isinstance(value, Mapping) else value


def matches(run: ListedRun, filters: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a run has one of the values of every key."""
    return all(
        any(_same(value_of(run, key), wanted) for wanted in values)
        for key, values in filters.items()
    )


def _same(value: Any, wanted: Any) -> bool:
    numbers = [v for v in (value, wanted) if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len((value, wanted)):
        return bool(math.isclose(value, wanted, rel_tol=1e-9))
    return spelled(value) == spelled(wanted)


def in_order(runs: Sequence[ListedRun], sort: str) -> list[ListedRun]:
    """In the order of a key, those without it last, ties by folder."""
    key = sort.removeprefix("-")
    keyed = [(_sort_value(run, key), run) for run in sorted(runs, key=lambda run: str(run.folder))]
    present = [pair for pair in keyed if pair[0] is not None]
    present.sort(key=_order(pair for pair in present), reverse=sort.startswith("-"))
    return [run for _, run in present] + [run for value, run in keyed if value is None]


def _order(pairs: Iterator[Any]) -> Callable[[Any], Any]:
    """Numbers by size where there is nothing else, else all by their spelling."""
    if all(isinstance(value, int | float) for value, _ in pairs):
        return lambda pair: pair[0]
    return lambda pair: spelled(pair[0])


def _sort_value(run: ListedRun, key: str) -> Any:
    if key == "folder":
        return str(run.folder)
    value = value_of(run, key)
    return metric(run, key) if value is None else value


def metric(run: ListedRun, name: str) -> float | None:
    """A finite estimate of a run's last evaluation; None without one."""
    found = run.metrics.get(metric_name(name, set(run.metrics)) or name)
    value = found.get("value") if isinstance(found, Mapping) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # of a whole number beyond all floats
        return None
