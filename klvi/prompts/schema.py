"""Where prompts come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from klvi.schema import Section, Source, Text


class NoPrompts(Section):
    """Completions from the start token alone."""

    name: Literal["none"]


class FilePrompts(Section):
    """Prompts from a file: a text per line; or JSON, CSV or Parquet with `field`, or `messages`.

    `chat` holds arguments of the chat template by which messages are laid out.
    """

    name: Literal["file"]
    path: Source | None = None
    format: Literal["auto", "text", "json", "csv", "parquet"] = "auto"
    field: Text = "prompt"
    chat: Annotated[dict[str, bool | int | float | str], Field(default_factory=dict)]
    max_tokens: Annotated[int, Field(ge=1)] = 256


Prompts = Annotated[NoPrompts | FilePrompts, Field(discriminator="name")]
