"""klvi's update against TRL's: seconds, stages, memory. `make bench`, or

    python -m scripts.bench [tiny|gpt2|growth|gdc|quality|profile ...] [--quick]
        [--device cuda [--engine graph]]

Each side runs in a fresh process, in turn, on one core (`taskset`, one thread) or one GPU, with the
same prior, batch, length, PPO epochs, LoRA, settings and reward. Seconds are medians over updates;
"CPU s" is what the process itself computed: its ratio is the one to read on a machine that others
use too. `taskset -c 1 make bench` takes another core than the first. Memory is the process's peak
above its size after the imports; the weights are part of it.

All completions have the full length on both sides, so that the tokens are the same: klvi's prior
stops at an id beyond the vocabulary, TRL has no stop token. Rows with "≤" have natural lengths.

The stages are klvi's own `time/…`; TRL's are the seconds of the functions that its `train` calls:
"generation" includes stacking all scores, "values" is the value model's pass before learning,
"other" what `train` does beside (log-probabilities of the samples, advantages, garbage collection).
Texts are decoded for the reward within "generation" by klvi and within "reward" by TRL.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from scripts.bench import tables
from scripts.bench.quality import quality
from scripts.bench.run import compare, run_module
from scripts.bench.workload import Workload, random_prior

BOTH = ("klvi", "trl")
LARGE_VOCABULARY = 8192


def bench_tiny(options: argparse.Namespace) -> None:
    """The shipped prior, 64 × 40 tokens."""
    workload = Workload("tiny", 64, 40, device=options.device)
    rows = [
        compare(workload, BOTH, repeats=1 if options.quick else 3),
        compare(replace(workload, natural=True), ("klvi",)),
    ]
    print(tables.comparison(rows))


def bench_gpt2(options: argparse.Namespace) -> None:
    """A random model of GPT-2 small's size; on the CPU a single update after a warm-up."""
    with random_prior("gpt2-small") as path:
        if options.device == "cuda":
            workload = Workload("gpt2-small", 256, 64, path, device="cuda", engine=options.engine)
        else:
            workload = Workload("gpt2-small", 16, 48, path, updates=1, warmup=1)
        row = compare(workload, BOTH)
    print(tables.comparison([row]))
    print(f"\n{tables.decoding_bound(row)}")


def bench_growth(options: argparse.Namespace) -> None:
    """A random model of tiny's shape, by batch, by length, and with a larger vocabulary."""
    with random_prior("tiny-shaped") as path, random_prior("tiny-shaped", LARGE_VOCABULARY) as wide:
        base = Workload("tiny-shaped", 64, 64, path, updates=1, device=options.device)
        batches = [compare(replace(base, batch=batch), BOTH) for batch in (16, 64)]
        batches += [compare(replace(base, batch=256), ("klvi",) if options.quick else BOTH)]
        lengths = [compare(replace(base, length=length), ("klvi",)) for length in (16, 128)]
        large = replace(base, path=wide, warmup=0)
        vocabulary = [compare(replace(large, batch=batch), ("klvi",)) for batch in (64, 256)]
    print(tables.growth([*batches, *lengths]))
    print(f"\n{tables.batch_growth(*batches)}")
    print(tables.logits_growth(*vocabulary, vocabulary=LARGE_VOCABULARY))


def bench_gdc(options: argparse.Namespace) -> None:
    """An update of gdc against its necessary parts, and one with proposal=policy against DPG."""
    workload = Workload("tiny", 64, 40, objective="gdc", device=options.device, updates=5)
    rows = [compare(workload, ("gdc",)), compare(replace(workload, natural=True), ("gdc",))]
    print(tables.necessary_parts(rows))
    larger = replace(workload, batch=128, length=48, proposal="policy")
    row = compare(larger, ("klvi", "dpg"), repeats=1 if options.quick else 3)
    print(f"\n{tables.against_dpg(row)}")


def bench_quality(options: argparse.Namespace) -> None:
    """Exact KL(π‖p) on the enumerable prior after as many updates, nats per sequence."""
    print(quality(updates=12 if options.quick else 40, seeds=1))


def bench_profile(options: argparse.Namespace) -> None:
    """Where klvi's update on the shipped prior spends its time (not among the default parts)."""
    workload = Workload("tiny", 64, 40, device=options.device)
    print(run_module("profile_side", workload.to_json(), device=options.device))


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "tiny": bench_tiny,
    "gpt2": bench_gpt2,
    "growth": bench_growth,
    "gdc": bench_gdc,
    "quality": bench_quality,
    "profile": bench_profile,
}


def main() -> None:
    """Print every part asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer repeats and updates")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--engine",
        choices=("torch", "graph"),
        default="torch",
        help="what decodes for klvi in gpt2 --device cuda",
    )
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print(tables.machine(options.device))
    for part in options.parts or [name for name in PARTS if name != "profile"]:
        print(f"\n## {part}\n\n{PARTS[part].__doc__}\n", flush=True)
        PARTS[part](options)
    print(f"\nAfterwards: {tables.machine(options.device)}")


main()
