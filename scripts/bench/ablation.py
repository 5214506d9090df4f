"""What each kernel buys by itself: `python -m scripts.bench.ablation [tiny] [gpt2] [--repeats 3]`.

klvi's PPO update on one core with all kernels, and with each left out, in turn, each in a fresh
process. The ratio is CPU seconds without the kernel to those with all: a kernel stays where it is
at least 1.05 on one of the two workloads.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from klvi.engine.kernels.install import KERNELS
from scripts.bench.measurement import Measurement
from scripts.bench.run import compare
from scripts.bench.tables import machine, markdown
from scripts.bench.workload import Workload, random_prior

LEFT_OUT = (None, *KERNELS)


def ablation(workload: Workload, repeats: int) -> str:
    """A table: a line for each kernel left out."""
    parts: dict[str | None, list[Measurement]] = {without: [] for without in LEFT_OUT}
    for _ in range(repeats):
        for without, found in parts.items():
            compared = compare(replace(workload, without=without), ("klvi",))
            found.append(compared.sides["klvi"])
    merged = {without: Measurement.merge(found) for without, found in parts.items()}
    lines = [
        [
            "all kernels" if without is None else f"without {without}",
            f"{found.cpu:.3f}",
            f"{found.cpu / merged[None].cpu:.3f}",
            f"{found.peak:.0f}",
        ]
        for without, found in merged.items()
    ]
    return markdown([workload.title, "CPU s/update", "ratio", "peak MiB"], lines)


def main() -> None:
    """Print a table for each workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", choices=("tiny", "gpt2"), default=("tiny", "gpt2"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(machine("cpu"))
    if "tiny" in options.workloads:
        print(f"\n{ablation(Workload('tiny', 64, 40), options.repeats)}", flush=True)
    if "gpt2" in options.workloads:
        with random_prior("gpt2-small") as path:
            workload = Workload("gpt2-small", 16, 48, path, updates=1)
            print(f"\n{ablation(workload, options.repeats)}", flush=True)


main()
