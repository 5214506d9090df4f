"""Conditional targets: how near gdc and kl come to p(x | prompt) on 200 prompts at once.

    python scripts/conditional.py [--seeds 0 1] [--folder runs/conditional]

Trains on the enumerable prior (3 letters, 3 tokens), of which each prompt, a sequence of up to five
letters, makes another distribution with a Z of its own. Prints the exact divergences, averaged over
all prompts, beside their intervals from samples of 24 prompts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

PROMPTS, MAX_LENGTH = 200, 5
SETTINGS = [
    *("model=enumerable", "model.letters=3", "model.length=3", "reward=letters", "beta=0.1"),
    *("batch_size=3200", "engine.batch_size=3200", "updates=300", "lora.r=32"),
    *("optim.algorithm=muon", "optim.lr=6e-3", "optim.schedule=cosine", "evaluation.every=100"),
]
OBJECTIVES = {
    "gdc": ["objective=gdc"],
    "kl": ["objective=kl", "objective.epochs=1", "samples_per_prompt=16"],
}


def write_prompts(file: Path) -> None:
    """PROMPTS different sequences of letters, a line each."""
    letters = [
        " ".join(word)
        for length in range(1, MAX_LENGTH + 1)
        for word in itertools.product("abc", repeat=length)
    ]
    random.Random(0).shuffle(letters)
    file.write_text("\n".join(letters[:PROMPTS]) + "\n", encoding="utf-8")


def train(objective: str, seed: int, prompts: Path, folder: Path) -> dict[str, Any]:
    """The summary of one run."""
    klvi = Path(sys.executable).parent / "klvi"
    arguments = [f"prompts.path={prompts}", f"seed={seed}", f"hydra.run.dir={folder}"]
    command = [klvi, "train", *SETTINGS, *OBJECTIVES[objective], "prompts=file", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary


def cell(summary: dict[str, Any], name: str) -> str:
    """A divergence, exact and measured."""
    exact, metric = summary["exact"][name], summary["metrics"][name]
    if metric["value"] is None:
        return f"{exact:.4f}"
    return f"{exact:.4f} ({metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/conditional"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    prompts = options.folder / "prompts.txt"
    write_prompts(prompts)
    print("| objective | seed | KL(p‖π) | KL(π‖p) | seconds |")
    print("|---|---|---|---|---|")
    for objective, seed in itertools.product(OBJECTIVES, options.seeds):
        summary = train(objective, seed, prompts, options.folder / f"{objective}-{seed}")
        names = ("eval/kl_target_forward", "eval/kl_target_reverse")
        cells = [cell(summary, name) for name in names]
        print(f"| {objective} | {seed} | {' | '.join(cells)} | {summary['seconds']:.0f} |")


if __name__ == "__main__":
    main()
