"""The console, copied to the run's log."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console, RenderableType
from rich.progress import Progress
from rich.text import Text

from klvi.console import HarmlessText, console
from klvi.errors import RunError
from klvi.files import append_text
from klvi.terminal import harmless

LOG_WIDTH, FILE_WIDTH = 100, 120


class Output:
    """Prints to the terminal and, once there is one, to the log file."""

    def __init__(self, terminal: Console | None = None) -> None:
        # Bound now: `sys.stdout` is another stream while a user's code runs.
        self.terminal = terminal or console(sys.stdout)
        if terminal is not None:
            terminal.push_render_hook(HarmlessText())
        if not self.terminal.is_terminal:
            # A file or a pipe has no width to respect.
            self.terminal.width = max(self.terminal.width, FILE_WIDTH)
        self._log: Path | None = None
        self._log_failed = False
        self._bar: Progress | None = None

    @property
    def live(self) -> bool:
        """Whether a progress bar can move."""
        return self.terminal.is_interactive

    def show(self, bar: Progress) -> None:
        """Have a bar move below what is printed, until `stop`."""
        self._bar = bar
        bar.start()

    def stop(self) -> None:
        """Give the terminal back as it was, without the bar."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()

    def copy_to(self, log: Path) -> None:
        """From now on, append to `log` what is printed."""
        self._log = log

    def print(self, *renderables: RenderableType) -> None:
        """Print to the terminal and to the log."""
        self.terminal.print(*renderables, soft_wrap=_plain(renderables))
        self.log(*renderables)

    def log(self, *renderables: RenderableType) -> None:
        """Print to the log alone, without colours or control characters.

        A log that cannot be written is told once, and costs only the log.
        """
        if self._log is None or self._log_failed:
            return
        text = io.StringIO()
        page = console(text, width=LOG_WIDTH, color_system=None, force_terminal=False)
        page.print(*renderables, soft_wrap=_plain(renderables))
        try:
            append_text(self._log, text.getvalue())
        except RunError as error:
            self._log_failed = True
            self.terminal.print(warning(f"{error}; the log ends here"), soft_wrap=True)


def warning(message: str) -> Text:
    """A line that nobody overlooks."""
    return Text.assemble(("WARNING", "bold white on red"), (f" {harmless(message)}", "bold red"))


def _plain(renderables: tuple[RenderableType, ...]) -> bool:
    """Lines of text are left for the terminal to wrap, so that paths can be copied."""
    return all(isinstance(renderable, str | Text) for renderable in renderables)
