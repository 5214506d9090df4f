"""What a run from elsewhere names, and may not be used unless the user trusts it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from klvi.config.validation import spelled
from klvi.runs.trust import changed_code

Keys = tuple[str, ...]


@dataclass(frozen=True)
class Named:
    """Code, a file, or a place for results that a configuration names.

    Attributes:
        keys: of the value, from the outermost section.
        what: it is, in words.
        code: its file or folder, where it is code; None for what is read or written alone.
    """

    keys: Keys
    value: Any
    what: str
    code: str | None = None


def untrusted(
    run: str, kept: Mapping[str, Any], config: Mapping[str, Any], overrides: Iterable[Override]
) -> list[str]:
    """A line for all in `config` that the run names, where another made it, or changed its code.

    `kept` holds what is the run's; what `overrides` set is the user's own.
    """
    own = {keys for override in overrides for keys in _set_by(override)}
    theirs = [named for named in names(config) if named.keys not in own and _is_in(kept, named)]
    if not theirs:
        return []
    changed = changed_code(Path(run).expanduser())
    if changed is None:
        why = "that this run names, and you did not make this run here"
        return [_line(run, named, why) for named in theirs]
    why = "of this run that has changed since you made it here"
    return [_line(run, n, why) for n in theirs if n.code and _among(n.code, changed)]


def names(config: Mapping[str, Any]) -> Iterator[Named]:
    """All of a configuration that runs code, opens files or folders, or sends results away."""
    yield from _model(("model",), _section(config, "model"))
    prompts = _section(config, "prompts")
    if prompts.get("path") is not None:
        yield Named(("prompts", "path"), prompts["path"], "a file")
    yield from _reward(("reward",), _section(config, "reward"))
    tracking = _section(config, "tracking")
    if tracking.get("name", "none") != "none":
        yield Named(("tracking", "name"), tracking["name"], "tracking")


def _model(keys: Keys, section: Mapping[str, Any]) -> Iterator[Named]:
    path = section.get("path")
    if section.get("trust_remote_code") is True:
        what = f"leave to run the code of {path}"
        yield Named((*keys, "trust_remote_code"), True, what, str(path))
    if path is not None and os.path.lexists(os.path.expanduser(str(path))):
        yield Named((*keys, "path"), path, "a file or folder")


def _reward(keys: Keys, section: Mapping[str, Any]) -> Iterator[Named]:
    if section.get("function") is not None:
        function = section["function"]
        yield Named((*keys, "function"), function, "code", str(function).rpartition(":")[0])
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


def _is_in(kept: Mapping[str, Any], named: Named) -> bool:
    value: Any = kept
    for key in named.keys:
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return bool(value == named.value)


def _among(code: str, changed: Iterable[str]) -> bool:
    place = Path(code).expanduser().absolute()
    return any(place in (Path(path), *Path(path).parents) for path in changed)


def _line(run: str, named: Named, why: str) -> str:
    key = ".".join(named.keys).replace("tracking.name", "tracking") + f"={spelled(named.value)}"
    return f"run={run}: {key} is {named.what} {why}; read it, then add trust=true"
