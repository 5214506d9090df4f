"""Exact divergences on the enumerable prior, per objective, over seeds.

    klvi train -m experiment=enumerable objective=rl,kl,gdc seed=0,1,2,3,4 hydra.sweep.dir=DIR
    python scripts/enumerable_seeds.py DIR

Prints the exact final values of each run in DIR, and its seconds of training.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

EXACT = (
    "eval/kl_target_forward",
    "eval/kl_target_reverse",
    "eval/entropy",
    "policy/largest_probability",
)


def main() -> None:
    print(
        "| objective | reward | β | seed "
        "| KL(p‖π) | KL(π‖p) | entropy | largest probability | seconds |"
    )
    print("|" + "---|" * 9)
    for folder in sorted(path.parent for path in Path(sys.argv[1]).rglob("summary.json")):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        summary = json.loads((folder / "summary.json").read_text())
        values = [summary["exact"].get(name) for name in EXACT]
        cells = ["—" if value is None else f"{value:.3g}" for value in values]
        reward = config["reward"].get("function") or config["reward"]["name"]
        name = reward.rpartition(":")[2]
        row = [config["objective"]["name"], name, config["beta"], config["seed"], *cells]
        print(f"| {' | '.join(map(str, row))} | {summary['seconds']:.0f} |")


if __name__ == "__main__":
    main()
