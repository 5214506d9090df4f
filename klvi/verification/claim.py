"""A claim: what theory says of a number, what it was, and whether they agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Claim:
    """One row of the table; claims of one `section` stand together."""

    section: str
    name: str
    theory: str
    measured: str
    passed: bool


def claim_table(claims: Iterable[Claim]) -> Table:
    """A row per claim: claim, what theory says, what was measured, pass or fail."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("claim", "theory", "measured"):
        table.add_column(heading, overflow="fold")
    table.add_column("", no_wrap=True)
    section = None
    for claim in claims:
        if claim.section != section:
            section = claim.section
            table.add_row(Text(section, style="bold blue"))
        verdict = Text("pass", style="green") if claim.passed else Text("FAIL", style="bold red")
        cells = (f"  {claim.name}", claim.theory, claim.measured)
        table.add_row(*(Text(cell) for cell in cells), verdict)
    return table
