"""Every target on the enumerable prior, reached by `gdc` and by `kl`, over seeds.

    python scripts/targets.py [NAME ...] [--seeds 3] [--jobs 2] [--out runs/targets] [--dry-run]

Runs the installed `klvi train experiment=enumerable` for each target, objective and seed, one
thread each, and prints the exact KL(p‖π) of `gdc` and KL(π‖p) of `kl` beside what was asked,
followed by what the target fitted beside its exact value. Finished runs under `--out` are not run
again; `--dry-run` prints the commands.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

REWARDS = "scripts/letter_rewards.py"
ASKED = 0.003
# Another enumerable prior, beside the runs.
TEACHER = "TEACHER"
KLVI = str(Path(sys.executable).parent / "klvi")
FITTED = ("eval/feature/", "target/lambda", "target/beta")
DIVERGENCE = {"gdc": "eval/kl_target_forward", "kl": "eval/kl_target_reverse"}


@dataclass(frozen=True)
class Case:
    """A target as a user asks for it, and how near each objective has to come, in nats."""

    options: tuple[str, ...]
    gdc: float | None = ASKED
    kl: float | None = ASKED

    def asked(self, objective: str) -> float | None:
        return self.gdc if objective == "gdc" else self.kl


def python(name: str) -> tuple[str, str]:
    return "reward=python", f"reward.function={REWARDS}:{name}"


def feature(name: str, reward: str, mean: float) -> str:
    return f"target.features.{name}={{reward: {reward}, mean: {mean}}}"


# As precise as means within 0.005 ask for: 4,096 samples know λ to a few percent.
PRECISE = ("target.fit_samples=200000", "target.refit_every=100", "target.ess_floor=100000")
CONTAINS_C = "{name: contains, text: c}"
HAS_C = ("reward=contains", "reward.text=c")
# From 0.13 under the prior.
SOME_C = feature("c", CONTAINS_C, 0.5)
# From 0.045: far, as a text with that share of b is rare.
MANY_B = feature("b", f"{{name: python, function: '{REWARDS}:share_of_b'}}", 0.5)

CASES = {
    "posterior": Case(("target=posterior",)),
    "posterior_at_a_KL": Case(
        ("target=posterior", "target.kl_prior=2", "target.fit_samples=200000")
    ),
    "constraint": Case(("target=constraint", *HAS_C), kl=None),
    "moments_one": Case(("target=moments", SOME_C, *PRECISE)),
    "moments_two": Case(("target=moments", SOME_C, MANY_B, *PRECISE)),
    "moments_hybrid": Case(
        ("target=moments", MANY_B, "target.constraint=true", *HAS_C, *PRECISE), kl=None
    ),
    "ensemble": Case(("target=ensemble", *python("panel"))),
    "preference": Case(("target=preference", *python("panel"))),
    "anchored": Case(("target=anchored", "target.threshold=0.7"), gdc=0.03, kl=0.15),
    "anchored_few": Case(("target=anchored", "target.threshold=0.81")),
    "power": Case(("target=power", "target.alpha=2")),
    "model": Case(("target=model", f"target.path={TEACHER}")),
    "continuation": Case(("target=continuation", "target.text=' e e'"), kl=None),
    "forward_kl": Case(
        ("target=forward_kl", "target.reward_max=0.90625", "target.fit_samples=200000")
    ),
    "product": Case(
        (
            "target=product",
            "~target.terms.polite",
            "+target.terms.sharp={target: {name: power, alpha: 1.5}}",
        )
    ),
    "product_with_a_constraint": Case(
        (
            "target=product",
            "~target.terms.polite",
            f"+target.terms.has={{target: {{name: constraint}}, reward: {CONTAINS_C}}}",
        ),
        kl=None,
    ),
}


@dataclass(frozen=True)
class Job:
    """One training run."""

    case: str
    objective: str
    seed: int

    def folder(self, out: Path) -> Path:
        return out / self.case / self.objective / str(self.seed)

    def command(self, out: Path) -> list[str]:
        return [
            KLVI,
            "train",
            "experiment=enumerable",
            f"objective={self.objective}",
            *(option.replace(TEACHER, str(out / "teacher")) for option in CASES[self.case].options),
            f"seed={self.seed}",
            "threads=1",
            f"hydra.run.dir={self.folder(out)}",
        ]

    def summary(self, out: Path) -> dict[str, Any] | None:
        """What the finished run measured; None where there is none."""
        file = self.folder(out) / "summary.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found if found.get("status") == "finished" else None

    def run(self, out: Path) -> None:
        if self.summary(out) is not None:
            return
        settings = os.environ | {"OMP_NUM_THREADS": "1"}
        print(shlex.join(self.command(out)), flush=True)
        done = subprocess.run(
            self.command(out), env=settings, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(done.stderr, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[[], *CASES])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/targets"))
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    cases = arguments.names or list(CASES)
    jobs = list(jobs_of(cases, arguments.seeds))
    if arguments.dry_run:
        print("\n".join(shlex.join(job.command(arguments.out)) for job in jobs))
        return
    if not (arguments.out / "teacher").exists():
        subprocess.run(
            [
                KLVI,
                "export",
                "model=enumerable",
                "model.seed=7",
                f"out={arguments.out / 'teacher'}",
            ],
            check=True,
        )
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda job: job.run(arguments.out), jobs))
    print(table(cases, arguments.seeds, arguments.out))
    print(*fits(cases, arguments.seeds, arguments.out), sep="\n")


def jobs_of(cases: list[str], seeds: int) -> Iterator[Job]:
    for case in cases:
        for objective in DIVERGENCE:
            if CASES[case].asked(objective) is not None:
                yield from (Job(case, objective, seed) for seed in range(seeds))


def table(cases: list[str], seeds: int, out: Path) -> str:
    lines = ["| target | KL(p‖π) by `gdc` | asked | KL(π‖p) by `kl` | asked |", "|---" * 5 + "|"]
    for case in cases:
        cells = [case]
        for objective in DIVERGENCE:
            asked = CASES[case].asked(objective)
            cells += (
                ["—", "—"] if asked is None else [cell(case, objective, seeds, out), str(asked)]
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(case: str, objective: str, seeds: int, out: Path) -> str:
    """The mean over seeds, and the lowest and highest."""
    summaries = [Job(case, objective, seed).summary(out) for seed in range(seeds)]
    values = [found["exact"].get(DIVERGENCE[objective]) for found in summaries if found is not None]
    numbers = [value for value in values if value is not None]
    if len(numbers) < seeds:
        return f"{seeds - len(numbers)} of {seeds} runs without a value"
    return f"{mean(numbers):.4f} [{min(numbers):.4f}, {max(numbers):.4f}]"


def fits(cases: list[str], seeds: int, out: Path) -> Iterator[str]:
    """A line for each fitted number and feature of each run, with its exact value where known."""
    for job in jobs_of(cases, seeds):
        summary = job.summary(out) or {"metrics": {}, "exact": {}}
        for name, metric in summary["metrics"].items():
            if name.startswith(FITTED):
                exact = summary["exact"].get(name)
                shown = "" if exact is None else f", exact {exact:.4f}"
                yield f"{job.case} {job.objective} {job.seed} {name}: {metric['value']}{shown}"


if __name__ == "__main__":
    main()
