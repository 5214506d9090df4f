"""A raw configuration against the schema: the typed configuration, or every problem in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from klvi.bounds import OUT_OF_BOUNDS
from klvi.config.keys import Raw, described, keys, named_sections, names_of, section_of, sections_of
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
        elif section is not None and item in section.model_fields:
            annotation = section.model_fields[str(item)].annotation
        elif section is None or item in _tags(annotation, section):
            continue
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
        several = field is not None and len(sections_of(field.annotation)) > 1
        choose = f"choose one, as in {key}=NAME" if "." not in key else "give one with a name"
        remedy = choose if several else f"give {described(field)}"
        return f"{key}: is missing; {remedy}"
    if item["type"] == OUT_OF_BOUNDS:
        return f"{key}={spelled(item['input'])}: must be {item['msg']}"
    if item["type"] == "finite_number":
        return f"{key}={spelled(item['input'])}: must be a finite number"
    if item["type"] in {"union_tag_invalid", "union_tag_not_found"} and field is not None:
        names = [name for section in sections_of(field.annotation) for name in names_of(section)]
        name = item["ctx"].get("tag")
        near = suggestion(str(name), names) if name is not None else ""
        return f"{key}.name={spelled(name)}: must be one of {', '.join(names)}{near}"
    if field is None:
        return f"{key}={spelled(item['input'])}: must be a section"
    near = suggestion(item["input"], _choices(field)) if isinstance(item["input"], str) else ""
    return f"{key}={spelled(item['input'])}: must be {described(field)}{near}"


def _choices(field: Any) -> list[str]:
    words = described(field)
    return words.removeprefix("one of ").split(", ") if words.startswith("one of ") else []


def unknown_key(key: str, schema: type[BaseModel], raw: Raw, *more: str) -> str:
    """The line for a key that is none, with the nearest spelling among the keys and `more`."""
    known = keys(schema, raw)
    parent = key.rpartition(".")[0]
    group, _, rest = key.partition(".")
    choice = _other_choice(schema, raw, group, rest.partition(".")[0])
    if choice:
        return f"{key}: {choice}"
    near = suggestion(key, [*known, *more])
    siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent]
    hint = f"; {parent} has {', '.join(siblings)}" if parent and siblings else ""
    return f"{key}: unknown key{near or hint}"


def _other_choice(schema: type[BaseModel], raw: Raw, parent: str, last: str) -> str | None:
    """Where another choice of the same group has the key, say so."""
    field = schema.model_fields.get(parent)
    section = section_of(field.annotation, raw.get(parent)) if field else None
    if field is None or section is None or last in section.model_fields:
        return None
    owners = [
        f"{parent}={name}"
        for other in sections_of(field.annotation)
        if last in other.model_fields
        for name in names_of(other)
    ]
    chosen = raw[parent].get("name")
    if not owners:
        return None
    return f"not a key of {parent}={chosen}, but of {' and '.join(owners)}"


def spelled(value: object) -> str:
    """A value as the command line spells it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {spelled(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(spelled, value)) + "]"
    try:
        return str(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"{value:#x}"
