"""The keys that a configuration may have, and what their values may be, read from the schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from klvi.schema import (
    InWords,
    Remedy,
    is_union,
    named_sections,
    names_of,
    section_of,
    sections_of,
)
from klvi.spelling import suggestion

Raw = Mapping[str, Any]

# What keys of earlier versions are called now.
RENAMED = {
    "rollout.max_new_tokens": "max_new_tokens",
    "rollout.samples_per_prompt": "samples_per_prompt",
    "rollout.batch_size": "engine.batch_size",
    "rollout.micro_batch_tokens": "engine.micro_batch_tokens",
    "rollout.engine": "engine.name",
    "rollout.engine_memory": "engine.memory",
    "objective.proposal": "proposal.name",
    "objective.prior_share": "proposal.prior_share",
    "objective.divergence": "proposal.divergence",
}


def keys(schema: type[BaseModel], raw: Raw) -> dict[str, FieldInfo | None]:
    """Every dotted key under `schema`, sections included, given the choices that `raw` made.

    The value is the key's field; None where the user names a section, as in `reward.terms.mine`.
    """
    return dict(_walk(schema, raw, ""))


def _walk(
    schema: type[BaseModel], raw: object, prefix: str
) -> Iterator[tuple[str, FieldInfo | None]]:
    values = raw if isinstance(raw, Mapping) else {}
    for name, field in schema.model_fields.items():
        key = f"{prefix}{name}"
        yield key, field
        yield from _below(field.annotation, values.get(name), key)


def _below(annotation: Any, raw: object, key: str) -> Iterator[tuple[str, FieldInfo | None]]:
    named = named_sections(annotation)
    if named is not None and isinstance(raw, Mapping):
        value_field = None if sections_of(named) else FieldInfo(annotation=named)
        for name, value in raw.items():
            yield f"{key}.{name}", value_field
            yield from _below(named, value, f"{key}.{name}")
    section = section_of(annotation, raw)
    if section is not None:
        yield from _walk(section, raw, f"{key}.")


def is_key(schema: type[BaseModel], raw: Raw, key: str) -> bool:
    """Whether `key` may be set; under a section that the user names, before it is there, too."""
    annotation: Any = schema
    value: Any = raw
    for part in key.split("."):
        named, section = named_sections(annotation), section_of(annotation, value)
        if named is not None:
            annotation = named
        elif section is not None and part in section.model_fields:
            annotation = section.model_fields[part].annotation
        else:
            # A reward that is still to come may be any of them.
            return value is None and len(sections_of(annotation)) > 1
        value = value.get(part) if isinstance(value, Mapping) else None
    return True


def is_optional_group(schema: type[BaseModel], group: str) -> bool:
    """Whether a config group may be left without a choice."""
    field = schema.model_fields.get(group)
    return field is not None and field.default is None and len(sections_of(field.annotation)) > 1


def free_keys(schema: type[BaseModel]) -> Iterator[str]:
    """The keys under which the user names values, as `prompts.chat`, or sections, in any choice."""
    return (key for key, _ in open_keys(schema))


def open_keys(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys under which the user names values or sections, with the type of these."""
    for name, field in schema.model_fields.items():
        named = named_sections(field.annotation)
        if named is not None:
            yield f"{prefix}{name}", named
        for section in sections_of(field.annotation):
            yield from open_keys(section, f"{prefix}{name}.")


def described(field: FieldInfo | None) -> str:
    """What a value may be, in words: "a whole number, at least 1"."""
    if field is None:
        return "a section"
    return " or ".join(dict.fromkeys(_described(field.annotation, field.metadata)))


def _described(annotation: Any, metadata: Iterable[object]) -> list[str]:
    metadata = list(metadata)
    in_words = [item.words for item in metadata if isinstance(item, InWords)]
    if in_words:
        return in_words
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        more = [m for item in more for m in (item.metadata if _is_field(item) else [item])]
        return _described(inner, metadata + more)
    if is_union(annotation):
        return [words for part in get_args(annotation) for words in _described(part, metadata)]
    if get_origin(annotation) is Literal:
        return ["one of " + ", ".join(map(str, get_args(annotation)))]
    if get_origin(annotation) is list:
        (each,) = (" or ".join(_described(item, ())) for item in get_args(annotation))
        return [
            "a list such as [a,b]" if each == _NAMES[str] else f"a list such as [1,4], each {each}"
        ]
    return [_NAMES.get(annotation, "a section") + _range(metadata)]


_NAMES: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
}


def _range(metadata: Iterable[object]) -> str:
    words: dict[type, str] = {}  # a field's own bound comes after that of its kind
    for item in metadata:
        match item:
            case annotated_types.Ge(bound):
                words[type(item)] = f"at least {_number(bound)}"
            case annotated_types.Gt(bound):
                words[type(item)] = f"greater than {_number(bound)}"
            case annotated_types.Le(bound):
                words[type(item)] = f"at most {_number(bound)}"
            case annotated_types.Lt(bound):
                words[type(item)] = f"less than {_number(bound)}"
            case annotated_types.MinLen(_):
                words[type(item)] = "not empty"
    return ", " + " and ".join(words.values()) if words else ""


def _number(bound: object) -> str:
    return f"{bound:,}" if isinstance(bound, int) else str(bound)


def _is_field(item: object) -> bool:
    return isinstance(item, FieldInfo)


def unknown_key(key: str, schema: type[BaseModel], raw: Raw, *more: str) -> str:
    """The line for a key that is none, with the nearest spelling among the keys and `more`."""
    if key in RENAMED:
        return f"{key}: is now {RENAMED[key].removesuffix('.name')}"
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


def missing(key: str, field: FieldInfo | None) -> str:
    """The line for a required key without a value."""
    metadata = [] if field is None else field.metadata
    remedies = [item.words.format(key=key) for item in metadata if isinstance(item, Remedy)]
    several = field is not None and len(sections_of(field.annotation)) > 1
    if several:
        choose = f"choose one, as in {key}=NAME" if "." not in key else "give one with a name"
    else:
        choose = f"give {next(iter(remedies), described(field))}"
    return f"{key}: is missing; {choose}"
