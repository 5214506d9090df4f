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


def compare(workload: Workload, sides: Sequence[str], repeats: int) -> Compared:
    """Measure `sides` in turn, `repeats` times: what disturbs one disturbs the other."""
    parts: dict[str, list[Measurement]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side in sides:
            parts[side].append(_child(side, workload))
    return Compared(workload, {side: Measurement.merge(found) for side, found in parts.items()})


def _child(side: str, workload: Workload) -> Measurement:
    return Measurement(
        **run_module("scripts.bench.child", side, workload.to_json(), device=workload.device)
    )


def run_module(module: str, *arguments: str, device: str) -> dict[str, Any]:
    """The object on the last line that a module prints as JSON, run on one core or one GPU."""
    print(f"  … {module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    pinned = ["taskset", "-c", str(CORE)] if device == "cpu" else []
    done = subprocess.run(
        [*pinned, sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
