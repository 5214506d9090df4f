"""A raw configuration against the schema: the typed configuration, or every problem in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from klvi.bounds import OUT_OF_BOUNDS
from klvi.config.keys import (
    Raw,
    described,
    keys,
    missing,
    spelled,
    unknown_key,
)
from klvi.schema import named_sections, names_of, section_of, sections_of
from klvi.spelling import suggestion

C = TypeVar("C", bound=BaseModel)


@dataclass(frozen=True)
class Validated(Generic[C]):
    """The configuration, None with problems; `wrong` holds the dotted keys that are wrong."""

    config: C | None
    problems: tuple[str, ...]
    wrong: frozenset[str]


def validate(schema: type[C], raw: Raw) -> Validated[C]:
    """Check types and ranges of `raw`; a line per wrong key."""
    try:
        return Validated(schema.model_validate(dict(raw)), (), frozenset())
    except ValidationError as error:
        problems: dict[str, str] = {}
        for item in error.errors(include_url=False):
            key = _dotted(schema, raw, item["loc"])
            problems.setdefault(key, _problem(schema, raw, key, dict(item)))
        return Validated(None, tuple(problems.values()), frozenset(problems))


def _dotted(schema: type[BaseModel], raw: object, location: Sequence[int | str]) -> str:
    """The key of pydantic's location, without the tags by which it tells unions apart."""
    parts: list[str] = []
    annotation: Any = schema
    for item in location:
        section = section_of(annotation, raw)
        named = named_sections(annotation)
        if named is not None:
            annotation = named
        elif section is None:
            continue
        elif item in _tags(annotation, section):  # a key of the section may have its name
            annotation = section
            continue
        elif item in section.model_fields:
            annotation = section.model_fields[str(item)].annotation
        parts.append(str(item))
        raw = raw.get(item) if isinstance(raw, Mapping) else None
    return ".".join(parts)


def _tags(annotation: Any, section: type[BaseModel]) -> set[object]:
    several = len(sections_of(annotation)) > 1
    return {*names_of(section), "causal_lm"} if several else set()


def _problem(schema: type[BaseModel], raw: Raw, key: str, item: Mapping[str, Any]) -> str:
    known = keys(schema, raw)
    field = known.get(key)
    if item["type"] == "extra_forbidden":
        return unknown_key(key, schema, raw)
    if item["type"] == "missing":
        return missing(key, field)
    if item["type"] == OUT_OF_BOUNDS:
        return f"{key}={spelled(item['input'])}: must be {item['msg']}"
    if item["type"] == "finite_number":
        return f"{key}={spelled(item['input'])}: must be a finite number"
    if item["type"] in {"union_tag_invalid", "union_tag_not_found"} and field is not None:
        names = [name for section in sections_of(field.annotation) for name in names_of(section)]
        name = item["ctx"].get("tag")
        near = suggestion(str(name), names) if name is not None else ""
        return f"{key}.name={spelled(name)}: must be one of {', '.join(names)}{near}"
    if item["type"] == "value_error" and field is not None and sections_of(field.annotation):
        return f"{key}: {item['ctx']['error']}"  # what the section says of its keys together
    if field is None:
        return f"{key}={spelled(item['input'])}: must be a section"
    near = suggestion(item["input"], _choices(field)) if isinstance(item["input"], str) else ""
    # Of a list with a wrong element it is the list that is described.
    value = _at(raw, key) if isinstance(item["loc"][-1], int) else item["input"]
    return f"{key}={_as_given(value)}: must be {described(field)}{near}"


def _as_given(value: Any) -> str:
    """As `spelled`; a text that reads as a number or the like stands in the quotes it was in."""
    reads = isinstance(value, str) and re.fullmatch(
        r"[-+]?[\d._]+(e[-+]?\d+)?|true|false|null", value
    )
    return f"'{value}'" if reads else spelled(value)


def _at(raw: Any, key: str) -> Any:
    for part in key.split("."):
        raw = raw.get(part) if isinstance(raw, Mapping) else None
    return raw


def _choices(field: Any) -> list[str]:
    words = described(field)
    return words.removeprefix("one of ").split(", ") if words.startswith("one of ") else []
