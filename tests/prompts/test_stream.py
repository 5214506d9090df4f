"""The order of prompts."""

from __future__ import annotations

from klvi.contexts import Context
from klvi.prompts.stream import PromptStream


def test_the_prompts_of_an_evaluation_are_drawn_once() -> None:
    stream = PromptStream([Context(row, str(row)) for row in range(50)])
    chosen = [context.row for context in stream.subset(10, seed=3)]
    assert chosen == [context.row for context in stream.subset(10, seed=3)]
    assert chosen == sorted(set(chosen))
    assert chosen != [context.row for context in stream.subset(10, seed=4)]
    assert stream.subset(50, seed=3) == stream.contexts
