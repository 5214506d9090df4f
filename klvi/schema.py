"""What every section of the configuration is made of: bounded, strict, and free of torch.

A section's fields are its keys. The text below a field is its help, the field's default is the
only place where that default is stated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    field_validator,
)
from pydantic_core import CoreSchema

from klvi.bounds import bounded
from klvi.registry import members


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
        provides: capabilities that choices of other groups may need.
    """

    group_name: ClassVar[str]
    builds: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ()
    provides: ClassVar[frozenset[str]] = frozenset()
    name: str

    @classmethod
    def members(cls) -> tuple[type[Choice], ...]:
        """The sections among which the group chooses."""
        return tuple(members(cls))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if Choice not in cls.__bases__:
            return handler(source)
        union: Any = Annotated[Union[cls.members()], Field(discriminator="name")]  # noqa: UP007
        return handler.generate_schema(union)


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
LOCATIONS = ("run", "out", "corpus")


def _anchored(value: str) -> str:
    """An existing file or folder, also as `FILE:NAME`, by its absolute path: a run's folder must
    tell what it read from wherever it is opened. What does not exist here may be a hub's id.
    """
    path = os.path.expanduser(value)
    file, colon, name = path.rpartition(":")
    if not os.path.exists(path) and colon and os.path.isfile(file):
        return f"{os.path.abspath(file)}:{name}"
    return os.path.abspath(path) if os.path.exists(path) else path


Source = Annotated[Text, AfterValidator(_anchored)]


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
