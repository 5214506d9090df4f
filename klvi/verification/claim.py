"""A claim: what theory says of a number, what it was, and whether they agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich import box
from rich.console import RenderableType
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


def claim_tables(claims: Iterable[Claim]) -> Iterator[RenderableType]:
    """Every section's title and its table: claim, what theory says, what was measured, verdict."""
    for section, members in itertools.groupby(claims, lambda claim: claim.section):
        yield Text(f"\n{section}", style="bold blue")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("claim", "theory", "measured"):
            table.add_column(heading, overflow="fold")
        table.add_column("", no_wrap=True)
        for claim in members:
            verdict = (
                Text("pass", style="green") if claim.passed else Text("FAIL", style="bold red")
            )
            table.add_row(Text(claim.name), Text(claim.theory), Text(claim.measured), verdict)
        yield table
