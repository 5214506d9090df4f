"""The progress bar: how far the run is, and what the policy does."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from klvi.tracking.base import Record
from klvi.tracking.numbers import MILLE, duration, number


class _Clock(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Time gone and time to go."""
        left = "" if task.time_remaining is None else f", {duration(task.time_remaining)} left"
        return Text(f"{duration(task.elapsed or 0)}{left}", style="dim")


class UpdateProgress(Progress):
    """A bar over the updates, with the latest reward, KL and entropy below it."""

    def __init__(self, console: Console, name: str, updates: int, done: int) -> None:
        self._status = Text("")
        super().__init__(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            _Clock(),
            console=console,
            expand=True,
            transient=True,
        )
        self._bar = self.add_task(name, total=updates, completed=done)

    def show(self, record: Record) -> None:
        """Advance to the record's update."""
        values = {
            "reward": number(record.get("objective/scores")),
            "KL(π‖π0)": f"{number(record.get('objective/kl'))} nats",
            "entropy": f"{number(record.get('objective/entropy'))} nats",
        }
        status = Text("")
        for name, value in values.items():
            status.append(f"{name} ", style="dim").append(value, style="bold").append("   ")
        self._status = status.append(rate(record), style="dim")
        self.update(self._bar, completed=record["update"])

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar and the line below it."""
        yield self.make_tasks_table(self.tasks)
        yield self._status


def rate(record: Record) -> str:
    """Speed of an update, in sampled tokens."""
    tokens = record.get("tokens_per_second")
    if tokens is None:
        return ""
    shown = f"{tokens / MILLE:.1f}k" if tokens >= MILLE else f"{tokens:.0f}"
    return f"{shown} tokens/s"
