"""Markdown tables of what was measured."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from scripts.bench.measurement import NECESSARY_PARTS, STAGES, Measurement
from scripts.bench.run import Compared


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comparison(rows: Sequence[Compared]) -> str:
    """A line per workload and side, with the share of each stage, and klvi's ratios to TRL."""
    header = ["workload", "side", "s/update", "CPU s", *STAGES, "other", "tokens/s", "peak MiB"]
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
        f"{max(other, 0.0) / found.wall:.0%}",
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


def decoding_bound(row: Compared) -> str:
    """klvi's decoding beside the time that reading the weights takes."""
    found = row.sides["klvi"]
    seconds = found.stage("generation")
    assert seconds is not None
    return (
        f"klvi's generation takes {seconds:.2f} s; reading the weights once per token takes "
        f"{found.bound:.2f} s, {found.bound / seconds:.0%} of it."
    )


def growth(rows: Sequence[Compared]) -> str:
    """Cost per token and peak memory of each side by batch and length."""
    sides = list(dict.fromkeys(side for row in rows for side in row.sides))
    header = ["batch × length", "tokens"]
    header += [f"{side} ms/token" for side in sides] + [f"{side} peak MiB" for side in sides]
    lines = []
    for row in rows:
        found = [row.sides.get(side) for side in sides]
        batch, length = row.workload.batch, row.workload.length
        costs = ["–" if x is None else f"{cost_per_token(row, x):.3f}" for x in found]
        peaks = ["–" if x is None else f"{x.peak:.0f}" for x in found]
        lines.append([f"{batch} × {length}", str(batch * length), *costs, *peaks])
    return markdown(header, lines)


def cost_per_token(row: Compared, found: Measurement) -> float:
    """Milliseconds per completion token: of CPU time on the CPU."""
    seconds = found.wall if row.workload.device == "cuda" else found.cpu
    return 1000 * seconds / (row.workload.batch * row.workload.length)


def batch_growth(small: Compared, middle: Compared, large: Compared) -> str:
    """How klvi's cost per token and memory grow over three batch sizes."""
    costs = [cost_per_token(row, row.sides["klvi"]) for row in (middle, large)]
    peaks = [row.sides["klvi"].peak for row in (small, middle, large)]
    sizes = [row.workload.batch for row in (small, middle, large)]
    slopes = [(peaks[i + 1] - peaks[i]) / (sizes[i + 1] - sizes[i]) for i in range(2)]
    return (
        f"klvi's cost per token at batch {sizes[2]} is {costs[1] / costs[0]:.2f} times that at "
        f"{sizes[1]}. Its peak memory grows by {slopes[0]:.2f} MiB per sequence from {sizes[0]} to "
        f"{sizes[1]} and by {slopes[1]:.2f} from {sizes[1]} to {sizes[2]}."
    )


def logits_growth(small: Compared, large: Compared, *, vocabulary: int) -> str:
    """How klvi's peak memory grows with the batch, beside the tensor of all logits."""
    sequences = large.workload.batch - small.workload.batch
    tensor = 4 * vocabulary * sequences * small.workload.length / 2**20
    extra = large.sides["klvi"].peak - small.sides["klvi"].peak
    return (
        f"With a vocabulary of {vocabulary} its peak grows by {extra:.0f} MiB from batch "
        f"{small.workload.batch} to {large.workload.batch}; all logits in float32 would grow by "
        f"{tensor:.0f} MiB."
    )


def necessary_parts(rows: Sequence[Compared]) -> str:
    """An update of gdc, its parts timed alone, and the ratio."""
    lines = []
    for row in rows:
        found = row.sides["gdc"]
        seconds = [found.stage(part) or 0.0 for part in NECESSARY_PARTS]
        ratio = found.cpu / sum(seconds)
        cells = [f"{x:.3f}" for x in (found.cpu, *seconds, sum(seconds))]
        lines.append([row.workload.title, *cells, f"**{ratio:.2f}**"])
    return markdown(["workload", "update s", *NECESSARY_PARTS, "sum", "ratio"], lines)


def against_dpg(row: Compared) -> str:
    """An update of gdc beside one of DPG on plain transformers and peft."""
    klvi, plain = row.sides["klvi"], row.sides["dpg"]
    cells = [f"{klvi.cpu:.3f}", f"{plain.cpu:.3f}", f"**{plain.cpu / klvi.cpu:.2f}**"]
    return markdown(["workload", "klvi s", "plain DPG s", "ratio"], [[row.workload.title, *cells]])


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
