"""The README's table: the main job under each objective, over seeds.

    python scripts/paris_seeds.py [--seeds 5] [--out runs/paris_seeds] [key=value ...]

Runs the installed `klvi train -m` once per objective, then prints the mean over seeds and, in
brackets, the lowest and the highest of each final metric, beside the prior's, and a sample of each.
Finished sweeps under `--out` are not run again.
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
    "rl": ["objective=rl"],
    "rl, count": ["objective=rl", "reward.count=true"],
    "kl": ["objective=kl", "beta=0.1"],
    "gdc": ["objective=gdc", "target=constraint"],
}
METRICS = {
    "reward": "reward",
    "mentions": "mentions",
    "KL(π‖π0)": "kl_prior",
    "KL(π‖p)": "kl_target_reverse",
    "KL(p‖π)": "kl_target_forward",
    "entropy per token": "entropy_token",
    "repetition": "repetition_2",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/paris_seeds"))
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    folders = {name: arguments.out / name.replace(", ", "_") for name in OBJECTIVES}
    for name, options in OBJECTIVES.items():
        sweep(folders[name], arguments.seeds, [*options, *arguments.overrides])
    results = {name: summaries(folder) for name, folder in folders.items()}
    print(table(first_evaluation(folders["kl"]), results))
    texts = {name: samples(folder) for name, folder in folders.items()}
    for name, found in {"prior": texts["kl"][:1], **{n: t[-1:] for n, t in texts.items()}}.items():
        print(f"\n{name}: {found[0]}")


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


def table(prior: dict[str, Any], results: dict[str, list[dict[str, Any]]]) -> str:
    """A row for the prior and for each objective, in Markdown."""
    values = [prior[f"eval/{metric}"] for metric in METRICS.values()]
    rows = {"prior": ["—" if value is None else f"{value:.3g}" for value in values]}
    for name, found in results.items():
        rows[name] = [cell([s["metrics"][f"eval/{m}"] for s in found]) for m in METRICS.values()]
    lines = ["| | " + " | ".join(METRICS) + " |", "|---|" + "---|" * len(METRICS)]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    return "\n".join(lines)


def cell(metrics: list[dict[str, Any]]) -> str:
    """The mean and the range of a metric over seeds, and of how many of these it is unavailable."""
    values = [metric["value"] for metric in metrics if metric["value"] is not None]
    if not values:
        return "—"
    shown = f"{mean(values):.3g} [{min(values):.3g}, {max(values):.3g}]"
    missing = len(metrics) - len(values)
    return f"{shown} ({missing} unavailable)" if missing else shown


def first_evaluation(folder: Path) -> dict[str, Any]:
    """What was measured before the first update, of the prior, the same for all seeds."""
    first: dict[str, Any] = json.loads((folder / "0" / "metrics.jsonl").read_text().split("\n")[0])
    return first


def samples(folder: Path) -> list[str]:
    lines = (folder / "0" / "samples.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


if __name__ == "__main__":
    main()
