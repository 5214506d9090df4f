"""What a run from elsewhere names, and may not be used unless the user trusts it."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from klvi.config.keys import spelled
from klvi.rewards.code import code_of
from klvi.runs.trust import changed_code

Keys = tuple[str, ...]
SHOWN = 3  # of changed files


@dataclass(frozen=True)
class Named:
    """Code, a file, or a place for results that a configuration names.

    Attributes:
        keys: of the value, from the outermost section.
        what: it is, in words.
        beside: keys of the same section that say more closely what is used.
        code: its section, where it is code; None for what is read or written alone.
    """

    keys: Keys
    value: Any
    what: str
    beside: tuple[str, ...] = ()
    code: Mapping[str, Any] | None = None


def untrusted(
    run: str, kept: Mapping[str, Any], config: Mapping[str, Any], overrides: Iterable[Override]
) -> list[str]:
    """A line for all in `config` that the run names, where another made it, or changed its code.

    `kept` holds what is the run's; what `overrides` set is the user's own.
    """
    own = {keys for override in overrides for keys in _set_by(override)}
    theirs = [named for named in names(config) if _is_of(kept, named, config, own)]
    if not theirs:
        return []
    changed = changed_code(Path(run).expanduser())
    if changed is None:
        why = "that this run names, and you did not make it here, or not as its config.yaml is now"
        return [_line(run, named, why) for named in theirs]
    found = [(named, _changed_of(named, changed)) for named in theirs]
    why = "of this run that has changed since you made it here"
    return [_line(run, named, f"{why} ({_listed(of)})") for named, of in found if of]


def names(config: Mapping[str, Any]) -> Iterator[Named]:
    """All of a configuration that runs code, opens files or folders, or sends results away."""
    yield from _model(("model",), _section(config, "model"))
    prompts = _section(config, "prompts")
    if prompts.get("path") is not None:
        yield Named(("prompts", "path"), prompts["path"], "a file")
    yield from _reward(("reward",), _section(config, "reward"))
    tracking = _section(config, "tracking")
    if tracking.get("name", "none") != "none":
        others = tuple(key for key in tracking if key != "name")
        yield Named(("tracking", "name"), tracking["name"], "tracking", others)


def _model(keys: Keys, section: Mapping[str, Any]) -> Iterator[Named]:
    path = section.get("path")
    if section.get("trust_remote_code") is True:
        what = f"leave to run the code of {path}"
        yield Named((*keys, "trust_remote_code"), True, what, ("path", "revision"), section)
    if path is not None and os.path.lexists(os.path.expanduser(str(path))):
        yield Named((*keys, "path"), path, "a file or folder")


def _reward(keys: Keys, section: Mapping[str, Any]) -> Iterator[Named]:
    if section.get("function") is not None:
        yield Named((*keys, "function"), section["function"], "code", code=section)
    yield from _model(keys, section)
    terms = section.get("terms")
    for label, term in terms.items() if isinstance(terms, Mapping) else ():
        if isinstance(term, Mapping):
            yield from _reward((*keys, "terms", label, "reward"), _section(term, "reward"))


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = config.get(key)
    return section if isinstance(section, Mapping) else {}


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
    for keys in ((*section, key) for key in (last, *named.beside)):
        value = _at(config, keys)
        if value is not None and keys not in own and value == _at(kept, keys):
            return True
    return False


def _at(values: Mapping[str, Any], keys: Keys) -> Any:
    value: Any = values
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _changed_of(named: Named, changed: Iterable[str]) -> list[str]:
    """The changed files of the code that is named; what is gone is not run."""
    present = set() if named.code is None else set(map(str, code_of(named.code)))
    return [path for path in changed if path in present]


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more


def _line(run: str, named: Named, why: str) -> str:
    key = ".".join(named.keys).replace("tracking.name", "tracking") + f"={spelled(named.value)}"
    return f"run={run}: {key} is {named.what} {why}; read it, then add trust=true"
