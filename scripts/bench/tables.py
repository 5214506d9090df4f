"""Markdown tables of what was measured."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from scripts.bench.measurement import STAGES, Measurement
from scripts.bench.run import Compared

SECONDS = ("s/update", "CPU s")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comparison(rows: Sequence[Compared]) -> str:
    """A line per workload and side, with the share of each stage, and klvi's ratios to TRL."""
    header = ["workload", "side", *SECONDS, *STAGES, "other", "tokens/s", "peak MiB"]
    lines = []
    for row in rows:
        lines += [_line(row, side, found) for side, found in row.sides.items()]
        if {"klvi", "trl"} <= set(row.sides):
            lines.append(_ratios(row, len(header)))
    return markdown(header, lines)


def _line(row: Compared, side: str, found: Measurement) -> list[str]:
    parts = [found.stage(name) for name in STAGES]
    other = found.wall - sum(part or 0.0 for part in parts)
    return [
        row.workload.title,
        side,
        f"{found.wall:.3f}",
        f"{found.cpu:.3f}",
        *("–" if part is None else f"{part / found.wall:.0%}" for part in parts),
        f"{other / found.wall:.0%}",
        f"{found.tokens_per_second:.0f}",
        f"{found.peak:.0f}",
    ]


def _ratios(row: Compared, columns: int) -> list[str]:
    klvi, trl = row.sides["klvi"], row.sides["trl"]
    cells = [
        row.workload.title,
        "**ratio**",
        f"**{trl.wall / klvi.wall:.2f}× faster**",
        f"**{trl.cpu / klvi.cpu:.2f}× faster**",
    ]
    return [*cells, *[""] * (columns - len(cells) - 1), f"**{klvi.peak / trl.peak:.2f}**"]


def machine(device: str) -> str:
    """What the numbers were measured on, and how busy it was."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    name = cpu[1] if cpu else platform.processor()
    where = f"one core of {name} ({os.cpu_count()} cores)"
    if device == "cuda":
        import torch

        where = torch.cuda.get_device_name()
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return f"{where}; Python {platform.python_version()}, {packages}; load average {load}"
