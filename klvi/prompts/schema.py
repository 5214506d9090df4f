"""Where prompts come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from klvi.schema import Choice, Remedy, Source, Text


class PromptsSection(Choice):
    """What completions go on from."""

    group_name = "prompts"


class NoPrompts(PromptsSection):
    """Completions from the start token alone."""

    name: Literal["none"]


class FilePrompts(PromptsSection):
    """Prompts from a file: a text per line; or JSON, CSV or Parquet with `field`, or `messages`."""

    name: Literal["file"]
    path: Annotated[Source, Remedy("a file of texts or JSON lines: {key}=FILE")]
    """a file of texts, JSON lines, JSON, CSV or Parquet"""
    format: Literal["auto", "text", "json", "csv", "parquet"] = "auto"
    """auto: by the file's name and beginning"""
    field: Text = "prompt"
    """the column with the prompt"""
    chat: Annotated[dict[str, bool | int | float | str], Field(default_factory=dict)]
    """arguments of the chat template by which messages are laid out"""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """tokens of a prompt; of a longer one the beginning is cut off"""
