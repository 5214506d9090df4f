"""What a run from elsewhere names, and may not be used unless the user trusts it."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from klvi.config.keys import spelled
from klvi.rewards.code import code_of
from klvi.runs.schema import TrainConfig
from klvi.runs.trust import changed_code
from klvi.schema import Named, named_in

Keys = tuple[str, ...]
SHOWN = 3  # of changed files


def untrusted(
    run: str, kept: Mapping[str, Any], config: Mapping[str, Any], overrides: Iterable[Override]
) -> list[str]:
    """A line for all in `config` that the run names, where another made it, or changed its code.

    `kept` holds what is the run's; what `overrides` set is the user's own.
    """
    own = {keys for override in overrides for keys in _set_by(override)}
    used = filter(_is_used, named_in(TrainConfig, config))
    theirs = [named for named in used if _is_of(kept, named, config, own)]
    if not theirs:
        return []
    changed = changed_code(Path(run).expanduser())
    if changed is None:
        why = "that this run names, and you did not make it here, or not as its config.yaml is now"
        return [_line(run, named, why) for named in theirs]
    found = [(named, _changed_of(named, changed)) for named in theirs]
    why = "of this run that has changed since you made it here"
    return [_line(run, named, f"{why} ({_listed(of)})") for named, of in found if of]


def untrusted_to_resume(run: str, stored: Mapping[str, Any]) -> list[str]:
    """As `untrusted`, of a run that is used whole, with its configuration as it is `stored`.

    Of the user's own run, `klvi resume` tells all that has changed since.
    """
    own = changed_code(Path(run).expanduser()) is not None
    return [] if own else untrusted(run, stored, stored, ())


def _is_used(named: Named) -> bool:
    """Whether what is named is used: of data, what is not on this machine may be a hub's id."""
    if named.names.kind != "data":
        return True
    path = os.path.expanduser(str(named.value))
    return os.path.lexists(path) or os.path.lexists(path.rpartition(":")[0])


def _set_by(override: Override) -> Iterator[Keys]:
    keys = tuple(override.key_or_group.split("."))
    yield from _leaves(keys, None if override.is_sweep_override() else override.value())


def _leaves(keys: Keys, value: object) -> Iterator[Keys]:
    if not isinstance(value, Mapping):
        yield keys
        return
    for key, below in value.items():
        yield from _leaves((*keys, str(key)), below)


def _is_of(
    kept: Mapping[str, Any], named: Named, config: Mapping[str, Any], own: Container[Keys]
) -> bool:
    """Whether any key of what is named is the run's and not the user's own."""
    *section, last = named.keys
    for keys in ((*section, key) for key in (last, *named.names.beside)):
        value = _at(config, keys)
        is_own = any(keys[:depth] in own for depth in range(len(keys) + 1))
        if value is not None and not is_own and value == _at(kept, keys):
            return True
    return False


def _at(values: Mapping[str, Any], keys: Keys) -> Any:
    value: Any = values
    for key in keys:
        if isinstance(value, list):
            value = dict(enumerate(value)).get(int(key))
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _changed_of(named: Named, changed: Iterable[str]) -> list[str]:
    """The changed files of the code that is named; what is gone is not run."""
    present = set(map(str, code_of(named)))
    return [path for path in changed if path in present]


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more


def _line(run: str, named: Named, why: str) -> str:
    keys = named.keys[:-1] if named.keys[-1] == "name" else named.keys
    key, what = ".".join(keys), named.names.what.replace("{path}", str(named.section.get("path")))
    return f"run={run}: {key}={spelled(named.value)} is {what} {why}; read it, then add trust=true"
