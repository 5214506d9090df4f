"""The README's table: the main job under each objective, over seeds.

    python scripts/paris_seeds.py [--seeds 5] [--out runs/paris_seeds] [key=value ...]

Runs the installed `klvi train -m` once per objective, then prints the mean over seeds and, in
brackets, the lowest and the highest of each final metric, and a sample of each objective. Finished
sweeps under `--out` are not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

OBJECTIVES = {
    "kl": ["objective=kl", "beta=0.1"],
    "gdc": ["objective=gdc", "target=constraint"],
    "rl": ["objective=rl"],
}
METRICS = {
    "reward": "reward",
    "KL(π‖π0)": "kl_prior",
    "KL(π‖p)": "kl_target_reverse",
    "KL(p‖π)": "kl_target_forward",
    "entropy": "entropy",
    "entropy per token": "entropy_token",
    "perplexity under π0": "perplexity_prior",
    "repetition (2-grams)": "repetition_2",
    "longest run": "longest_run",
    "length": "length",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/paris_seeds"))
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    for name, options in OBJECTIVES.items():
        sweep(arguments.out / name, arguments.seeds, [*options, *arguments.overrides])
    print(table({name: summaries(arguments.out / name) for name in OBJECTIVES}))
    for name in OBJECTIVES:
        print(f"\n{name}: {last_sample(arguments.out / name)}")


def sweep(folder: Path, seeds: int, options: list[str]) -> None:
    if len(summaries(folder)) == seeds:
        return
    command = [
        str(Path(sys.executable).parent / "klvi"),
        "train",
        "-m",
        f"seed={','.join(map(str, range(seeds)))}",
        f"hydra.sweep.dir={folder}",
        *options,
    ]
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True)


def summaries(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/summary.json"))]
    return [summary for summary in found if summary["status"] == "finished"]


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    for label, metric in METRICS.items():
        cells = [
            cell([s["metrics"][f"eval/{metric}"] for s in found]) for found in results.values()
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    seconds = [cell([{"value": s["seconds"]} for s in found]) for found in results.values()]
    lines.append("| seconds | " + " | ".join(seconds) + " |")
    return "\n".join(lines)


def cell(metrics: list[dict[str, Any]]) -> str:
    values = [metric["value"] for metric in metrics if metric["value"] is not None]
    if not values:
        return f"— ({metrics[0]['reason'].split(':')[0]})"
    shown = f"{mean(values):.3g} [{min(values):.3g}, {max(values):.3g}]"
    missing = len(metrics) - len(values)
    return f"{shown} ({missing} unavailable)" if missing else shown


def last_sample(folder: Path) -> str:
    lines = (folder / "0" / "samples.jsonl").read_text().splitlines()
    return str(json.loads(lines[-1])["text"])


if __name__ == "__main__":
    main()
