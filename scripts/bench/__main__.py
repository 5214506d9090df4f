"""klvi's update against TRL's: seconds, stages, memory. `make bench`, or

    python -m scripts.bench [tiny|gpt2|growth|gdc ...] [--quick] [--device cuda]

Each side runs in a fresh process, in turn, on one core (`taskset`, one thread) or one GPU, with the
same prior, batch, length, PPO epochs, LoRA, settings and reward. Seconds are medians over updates;
"CPU s" is what the process computed, and the ratio of these is the one to read on a machine that is
shared. Memory is the process's peak above its size after the imports; of both its models' weights
are a part.

All completions have the full length on both sides, so that the tokens are the same: klvi's prior
stops at an id beyond the vocabulary, TRL has no stop token. Rows with "≤" have natural lengths.

The stages are klvi's own `time/…`; TRL's are the seconds of the functions that its `train` calls.
"generation" of TRL includes stacking all scores, "values" is its pass of the value model before
learning, "other" what `train` does beside: log-probabilities of the samples, advantages, garbage
collection.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from scripts.bench.run import compare
from scripts.bench.tables import comparison, machine
from scripts.bench.workload import Workload

BOTH = ("klvi", "trl")


def tiny(arguments: argparse.Namespace) -> None:
    """The shipped prior."""
    workload = Workload("tiny", 64, 40, device=arguments.device)
    repeats = 1 if arguments.quick else 2
    rows = [
        compare(workload, BOTH, repeats),
        compare(replace(workload, natural=True), ("klvi",), 1),
    ]
    print(comparison(rows), flush=True)


PARTS = {"tiny": tiny}


def main() -> None:
    """Print every part asked for."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--quick", action="store_true", help="fewer repeats and updates")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    print(machine(arguments.device))
    for part in arguments.parts or PARTS:
        print(f"\n## {part}: {PARTS[part].__doc__}\n", flush=True)
        PARTS[part](arguments)
    print(f"\nAfterwards: {machine(arguments.device)}")


main()
