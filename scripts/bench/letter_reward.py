"""A reward on the enumerable prior's letters."""

from __future__ import annotations


def share_of_a(texts: list[str], prompts: list[str]) -> list[float]:
    """A tenth for every "a" of at most three."""
    return [min(text.split().count("a"), 3) / 10 for text in texts]
