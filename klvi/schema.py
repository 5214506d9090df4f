"""What every section of the configuration is made of: bounded, strict, and free of torch.

A section's fields are its keys. The text below a field is its help, the field's default is the
only place where that default is stated.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    field_validator,
)
from pydantic_core import CoreSchema

from klvi.bounds import bounded
from klvi.errors import UserError
from klvi.registry import members, name_of


@dataclass(frozen=True)
class Need:
    """What a choice cannot do without: a capability that the choice of another group provides.

    Attributes:
        group: the other group, such as "target".
        capability: a name that sections of that group have in `provides`.
        why: the reason and the remedy, in the words of an error.
    """

    group: str
    capability: str
    why: str


@dataclass(frozen=True)
class Names:
    """Beside a field, or of a group: what it names lies outside of the configuration.

    A run that another made may name it only where its user trusts the run: see `named_in`.

    Attributes:
        what: it is, in the words of an error; `{path}` is that key of the same section.
        kind: data is read, where there is any on this machine; code is run; a service is given
            results.
        beside: keys of the same section that say more closely what is used.
    """

    what: str
    kind: Literal["data", "code", "service"] = "data"
    beside: tuple[str, ...] = ()


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are not coerced silently.

    Every number is bounded, also where its field says nothing.
    """

    # Groups are complete once all packages are imported, which is when a first value is checked.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, strict=True, defer_build=True
    )

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: object) -> object:
        return bounded(value)

    def settings(self) -> dict[str, Any]:
        """The section's fields, without its `name`."""
        return {key: value for key, value in self if key != "name"}


class Choice(Section):
    """What a config group chooses among; a direct subclass is the group, those below its members.

    A member has a `name` of its own, `Literal["…"]`. Installed packages add members by entry
    points: see `klvi.registry`.

    Attributes:
        group_name: the name of the config group.
        builds: what a section describes, as `module:name`; it is called with the section's fields.
        needs: what the choices of other groups must provide.
        provides: capabilities that choices of other groups may need; see `capabilities`.
        reaches: what choosing the member names, whatever its keys are.
    """

    group_name: ClassVar[str]
    builds: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ()
    provides: ClassVar[frozenset[str]] = frozenset()
    reaches: ClassVar[Names | None] = None
    name: str

    @classmethod
    def members(cls) -> tuple[type[Choice], ...]:
        """The sections among which the group chooses."""
        return tuple(members(cls))

    @classmethod
    def capabilities(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """What the member provides with these values of its keys, which need not be valid."""
        return cls.provides

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if Choice not in cls.__bases__:
            return handler(source)
        union: Any = Annotated[Union[cls.members()], Field(discriminator="name")]  # noqa: UP007
        return handler.generate_schema(union)


C = TypeVar("C", bound=Choice)


def plain(value: Any) -> Any:
    """A number of NumPy's or torch's as Python has it; all else as it is."""
    is_scalar = getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if is_scalar else value


def check_fields(section: type[Choice], thing: object) -> None:
    """Hold what a dataclass was given to the keys of its section; raises as `settings_of`."""
    given = {key: getattr(thing, key) for key in section.model_fields if key != "name"}
    for key, value in settings_of(section, given).settings().items():
        object.__setattr__(thing, key, value)  # of a frozen one, too


def settings_of(section: type[C], given: dict[str, Any]) -> C:
    """The section of a member from what its constructor was given.

    Raises UserError with a line for each key that is none, and each value that is not one of it.
    """
    try:
        values = {key: plain(value) for key, value in given.items()}
        return section.model_validate({"name": name_of(section), **values})
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            key = ".".join(map(str, item["loc"]))
            said = item["msg"][:1].lower() + item["msg"][1:]
            if item["type"] == "extra_forbidden":
                known = ", ".join(field for field in section.model_fields if field != "name")
                said = f"is no setting of {name_of(section)}, which has {known}"
            lines.append(f"{key}={item['input']!r}: {said}")
        raise UserError(*lines) from error


def choices_in(section: Section) -> Iterator[Choice]:
    """The chosen members of all groups in a configuration, at any depth."""
    if isinstance(section, Choice):
        yield section
    for _, value in section:
        for below in value.values() if isinstance(value, dict) else [value]:
            if isinstance(below, Section):
                yield from choices_in(below)


def _whole_number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


@dataclass(frozen=True)
class InWords:
    """Beside a validator: what the value may be, in the words of an error."""

    words: str


@dataclass(frozen=True)
class Remedy:
    """Beside a required field: how to give it."""

    words: str


# Hydra reads `name=2024` as a number, though a text is meant.
Text = Annotated[str, BeforeValidator(_whole_number_as_text)]
# Of tokens, samples or weights that are held in memory together.
Size = Annotated[int, Field(ge=1, le=10**6)]
# OpenMP ends the process where it cannot start as many.
Threads = Annotated[int, Field(ge=1, le=1024)]
# No shell expands the ~ in `run=~/runs/1`.
Location = Annotated[Text, AfterValidator(os.path.expanduser)]
LOCATIONS = ("run", "out", "corpus", "data")


def _anchored(value: str) -> str:
    """An existing file or folder, also as `FILE:NAME`, by its absolute path: a run's folder must
    tell what it read from wherever it is opened. What does not exist here may be a hub's id.
    """
    path = os.path.expanduser(value)
    file, colon, name = path.rpartition(":")
    if not os.path.exists(path) and colon and os.path.isfile(file):
        return f"{os.path.abspath(file)}:{name}"
    return os.path.abspath(path) if os.path.exists(path) else path


# A file or folder, or a hub's id, that is read.
Source = Annotated[Text, AfterValidator(_anchored), Names("a file or folder")]
# Python that is run, as FILE.py:NAME.
Code = Annotated[Text, AfterValidator(_anchored), Names("code", "code")]
# Leave to run what lies in the section's `path`.
RemoteCode = Annotated[
    bool, Names("leave to run the code of {path}", "code", beside=("path", "revision"))
]


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise ValueError("not a device")
    return value


Device = Annotated[
    Text, AfterValidator(_device), InWords("one of auto, cpu, cuda, cuda:NUMBER, mps")
]


def _inside(value: str) -> str:
    if os.path.isabs(value) or os.pardir in value.split("/"):
        raise ValueError("leaves runs/")
    return value


RunName = Annotated[
    Text,
    Field(min_length=1),
    AfterValidator(_inside),
    InWords("the name of a folder under runs/"),
]


@dataclass(frozen=True)
class Named:
    """What a configuration names outside of itself.

    Attributes:
        keys: of the value, from the outermost section.
        section: that holds it, as it is in the configuration.
    """

    keys: tuple[str, ...]
    value: Any
    section: Mapping[str, Any]
    names: Names


def named_in(
    section: type[BaseModel], raw: Mapping[str, Any], keys: tuple[str, ...] = ()
) -> Iterator[Named]:
    """All that a raw configuration names by marked fields of the choices it made, at any depth."""
    whole: Names | None = getattr(section, "reaches", None)
    if whole is not None:
        beside = tuple(key for key in raw if key != "name")
        yield Named((*keys, "name"), raw.get("name"), raw, replace(whole, beside=beside))
    for key, field in section.model_fields.items():
        marked = (field.annotation, *field.metadata)
        yield from _named(field.annotation, _mark(marked), raw.get(key), raw, (*keys, key))


def _named(
    annotation: Any,
    mark: Names | None,
    value: Any,
    section: Mapping[str, Any],
    keys: tuple[str, ...],
) -> Iterator[Named]:
    if isinstance(value, Mapping):
        chosen = section_of(annotation, value)
        if chosen is not None:
            yield from named_in(chosen, value, keys)
            return
        for key, below in value.items():
            yield from _named(named_sections(annotation), mark, below, section, (*keys, key))
    elif isinstance(value, list):
        for place, below in enumerate(value):
            yield from _named(_element(annotation, list), mark, below, section, (*keys, str(place)))
    elif mark is not None and value is not None and value is not False:
        yield Named(keys, value, section, mark)


def _mark(annotation: Any) -> Names | None:
    """The mark of a field, wherever it stands in its type."""
    if isinstance(annotation, Names):
        return annotation
    parts = annotation if isinstance(annotation, tuple) else get_args(annotation)
    return next(filter(None, map(_mark, parts)), None)


def unknown_choices(
    section: type[BaseModel], raw: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """The choices of a raw configuration, as `group=name`, of which no package has the section."""
    for key, field in section.model_fields.items():
        yield from _unknown(field.annotation, raw.get(key), f"{prefix}{key}")


def _unknown(annotation: Any, value: Any, key: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        return
    chosen, named = section_of(annotation, value), named_sections(annotation)
    if chosen is not None:
        yield from unknown_choices(chosen, value, f"{key}.")
    elif sections_of(annotation):
        yield f"{key}={value.get('name')}"
    elif named is not None:
        for name, below in value.items():
            yield from _unknown(named, below, f"{key}.{name}")


def named_sections(annotation: Any) -> Any | None:
    """The type of the sections that the user names, for a `dict[str, …]`; else None."""
    return _element(annotation, Mapping)


def _element(annotation: Any, kind: type) -> Any | None:
    """The type of what is in a mapping or a list, where the annotation is, or may be, one."""
    annotation = _bare(annotation)
    origin = get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, kind):
        return get_args(annotation)[-1]
    parts = get_args(annotation) if is_union(annotation) else ()
    return next((found for part in parts if (found := _element(part, kind)) is not None), None)


def section_of(annotation: Any, raw: object) -> type[BaseModel] | None:
    """The section that `raw` is, told by its `name` where there are several; None for a value."""
    sections = sections_of(annotation)
    if len(sections) == 1:
        return sections[0]
    name = raw.get("name") if isinstance(raw, Mapping) else None
    named = [section for section in sections if name in names_of(section)]
    free = [section for section in sections if not names_of(section)]
    return next(iter(named + free), None)


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    """The sections among which a group chooses; empty where the annotation is a value's."""
    annotation = _bare(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Choice):
        return list(annotation.members()) if Choice in annotation.__bases__ else [annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if is_union(annotation):
        return [section for part in get_args(annotation) for section in sections_of(part)]
    return []


def names_of(section: type[BaseModel]) -> tuple[str, ...]:
    """The values that a section's `name` may have; empty where any text will do."""
    field = section.model_fields.get("name")
    return get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()


def is_union(annotation: Any) -> bool:
    """Whether an annotation is one of several types."""
    return get_origin(annotation) in (Union, types.UnionType)


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
