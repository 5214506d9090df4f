"""What a person sees of reward models: how well each predicts held-out labels."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from klvi.metrics.measurement import Measurement
from klvi.tracking.numbers import number
from klvi.training.held_out import EnsembleHeldOut


def reward_table(result: EnsembleHeldOut, title: str) -> Table:
    """A row for each member, one for their mean, and one for the reward behind the labels."""
    rows = {f"reward model {name}": found for name, found in result.members.items()}
    if result.mean is not None:
        rows[f"mean of {len(result.members)}"] = result.mean
    ordered = all(found.order is not None for found in rows.values())
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    headings = ["accuracy", "loss (nats per pair)", "calibration error"]
    for heading in headings + ["order of the scores"] * ordered:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found in rows.items():
        cells = [_share(found.accuracy), number(found.loss.value), number(found.calibration_error)]
        if ordered and found.order is not None:
            cells.append(_share(found.order))
        table.add_row(Text(name), *cells)
    if result.scores is not None:
        table.add_row(Text("the scores themselves"), _share(result.scores))
    return table


def _share(found: Measurement) -> str:
    return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"
