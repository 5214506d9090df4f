"""What a person sees of a pretraining: a progress bar, a table, and the prior's README."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from klvi.terminal import printable
from klvi.tracking.numbers import duration, number
from klvi.tracking.output import Output

LINES = 10
HEADINGS = ("measured", "standard error", "exact")


@dataclass(frozen=True)
class Quantity:
    """A measured mean with its standard error, and its exact value where that is known."""

    name: str
    value: float
    error: float
    exact: float | None = None

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Name, mean, standard error and exact value, for people."""
        exact = "" if self.exact is None else number(self.exact)
        return self.name, number(self.value), f"± {number(self.error)}", exact


class PretrainingProgress:
    """A bar over the steps where one can move; else a line now and then."""

    def __init__(self, output: Output, steps: int, unit: str = "nats per token") -> None:
        self._output, self._steps, self._started = output, steps, time.monotonic()
        self._unit = unit
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(
            *columns, TextColumn("{task.description}"), console=output.terminal, transient=True
        )
        self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> PretrainingProgress:
        if self._output.live:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._output.live:
            self._bar.stop()

    def show_after(self, before: int, step: int, loss: float) -> None:
        """As `show`, of a training that began after `before` steps."""
        self.show(before + step, loss)

    def show(self, step: int, loss: float) -> None:
        """Show a step, from 1, and its loss."""
        shown = f"loss {loss:.3f} {self._unit}"
        self._bar.update(self._task, completed=step, description=shown)
        if step % max(1, self._steps // LINES) == 0 or step == self._steps:
            elapsed = duration(time.monotonic() - self._started)
            self._output.print(f"step {step:>5} of {self._steps}  {shown}  {elapsed:>6}")


def quality_table(quantities: Sequence[Quantity], title: str) -> Table:
    """A row for each quantity."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for quantity in quantities:
        table.add_row(*quantity.cells)
    return table


def prior_card(
    name: str, command: str, origin: str, quantities: Sequence[Quantity], samples: Sequence[str]
) -> str:
    """The README of a prior: how it was made, how good it is, and what it writes."""
    rows = "\n".join(f"| {' | '.join(quantity.cells)} |" for quantity in quantities)
    texts = "\n".join(f"> {printable(text)}\n>" for text in samples)
    return f"""# {name}
A small language model, made by

```
{command}
```

{origin}

## How good it is
| | {" | ".join(HEADINGS)} |
|---|---:|---:|---:|
{rows}

## What it writes
{texts.removesuffix(">").rstrip()}
"""
