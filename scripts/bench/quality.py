"""Exact KL(π‖p) of klvi's PPO and of TRL's after the same number of updates.

    python -m scripts.bench.quality [--updates 150] [--seeds 3]

What is trained, and how, stands in `quality_side`.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from scripts.bench.run import last_line, run_module
from scripts.bench.tables import markdown


def quality(updates: int, seeds: int) -> str:
    """A table: nats per sequence by update, the mean over seeds and each seed's value."""
    curves: dict[str, list[dict[str, float]]] = {"klvi": [], "trl": []}
    for seed in range(seeds):
        for side, found in curves.items():
            print(f"  {side}: enumerable prior, seed {seed}", file=sys.stderr, flush=True)
            output = run_module("quality_side", side, str(seed), str(updates), device="cpu")
            found.append(last_line(output))
    header = ["update", "klvi KL(π‖p)", "TRL KL(π‖p)", "klvi by seed", "TRL by seed"]
    rows = []
    for update in curves["klvi"][0]:
        values = {side: [curve[update] for curve in found] for side, found in curves.items()}
        means = [f"{statistics.mean(value):.4f}" for value in values.values()]
        each = [" ".join(f"{x:.4f}" for x in value) for value in values.values()]
        rows.append([update, *means, *each])
    return markdown(header, rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print(quality(arguments.updates, arguments.seeds))


if __name__ == "__main__":
    main()
