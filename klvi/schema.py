"""What every section of the configuration is made of: bounded, strict, and free of torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from klvi.bounds import bounded


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are not coerced silently.

    Every number is bounded, also where its field says nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: object) -> object:
        return bounded(value)


def _whole_number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


@dataclass(frozen=True)
class InWords:
    """Beside a validator: what the value may be, in the words of an error."""

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


INSIDE = InWords("the name of a folder under runs/")
