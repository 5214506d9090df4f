"""One side in a process of its own: `python -m scripts.bench.child SIDE WORKLOAD`, JSON out."""

from __future__ import annotations

import importlib
import sys
import warnings

from scripts.bench.workload import Workload


def main() -> None:
    """Measure and print the measurement as the last line."""
    side, workload = sys.argv[1], Workload.from_json(sys.argv[2])
    warnings.simplefilter("ignore")
    measure = importlib.import_module(f"scripts.bench.{side}_side").measure
    print(measure(workload).to_json())


main()
