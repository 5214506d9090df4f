"""Both sides in turn, each in a fresh process of one tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench.measurement import Measurement
from scripts.bench.workload import Workload

ROOT = Path(__file__).parents[2]
CORE = min(os.sched_getaffinity(0))
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}


@dataclass(frozen=True)
class Compared:
    """A workload and what each side took for it."""

    workload: Workload
    sides: dict[str, Measurement]


def compare(workload: Workload, sides: Sequence[str], repeats: int = 1) -> Compared:
    """Measure `sides` in turn, `repeats` times: what disturbs one disturbs the other."""
    parts: dict[str, list[Measurement]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side in sides:
            print(f"  {side}: {workload.title}", file=sys.stderr, flush=True)
            output = run_module("child", side, workload.to_json(), device=workload.device)
            parts[side].append(Measurement(**last_line(output)))
    return Compared(workload, {side: Measurement.merge(found) for side, found in parts.items()})


def run_module(module: str, *arguments: str, device: str) -> str:
    """What a module of the benchmark prints, run on one core or one GPU."""
    pinned = ["taskset", "-c", str(CORE)] if device == "cpu" else []
    done = subprocess.run(
        [*pinned, sys.executable, "-m", f"scripts.bench.{module}", *arguments],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def last_line(output: str) -> Any:
    """The JSON on the last line: the lines before are the libraries' own."""
    return json.loads(output.splitlines()[-1])
