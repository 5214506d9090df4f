"""What completions are conditional on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_TITLE = 60


@dataclass(frozen=True)
class Context:
    """What a completion is conditional on: one row of the prompts.

    Attributes:
        row: its number; contexts with the same number are the same.
        prompt: the text before the completion, `""` without one.
        columns: what else the row holds, by name; rewards may read it.
        messages: of a chat, to be laid out by the tokenizer's template; None for a plain text.
    """

    row: int
    prompt: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Mapping[str, Any]] | None = None

    @property
    def title(self) -> str:
        """Its row and the beginning of its prompt, to name it by."""
        prompt = " ".join(self.prompt.split())
        shown = prompt if len(prompt) <= MAX_TITLE else f"{prompt[: MAX_TITLE - 1]}…"
        return f"prompt {self.row} ({shown!r})"


def contexts_of(prompts: Sequence[str]) -> list[Context]:
    """A context per prompt; equal prompts have the same row."""
    rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    return [Context(rows[prompt], prompt) for prompt in prompts]


def unprompted(count: int) -> list[Context]:
    """The context of no prompt, `count` times."""
    return [Context(0)] * count
