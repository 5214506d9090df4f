"""Consoles of rich that print text harmlessly."""

from __future__ import annotations

from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.text import Text

from klvi.terminal import harmless


class HarmlessText(RenderHook):
    """Spells out the control characters in what a console prints, but not those of its styles."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Wrap all of them."""
        return [_Harmless(renderable) for renderable in renderables]


class _Harmless:
    def __init__(self, content: ConsoleRenderable) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self._content, options):
            yield Segment(text if control else harmless(text), style, control)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._content)


class _Console(Console):
    def render_str(self, text: str, **settings: Any) -> Text:
        """Of its own accord rich drops some control characters, where they should be seen."""
        return super().render_str(harmless(text), **settings)


def console(file: Any = None, **settings: Any) -> Console:
    """A console that prints text as it is, without markup, and harmlessly."""
    made = _Console(file=file, highlight=False, markup=False, emoji=False, **settings)
    made.push_render_hook(HarmlessText())
    return made
