"""Where klvi's update spends its time: `python -m scripts.bench.profile_side WORKLOAD`.

Two profiles of one update after a warm-up: torch's operators, and Python's functions.
"""

from __future__ import annotations

import cProfile
import pstats
import sys

from torch.profiler import ProfilerActivity, profile

from scripts.bench.klvi_side import assemble
from scripts.bench.workload import Workload

ROWS = 20


def main() -> None:
    """Print both profiles."""
    workload = Workload.from_json(sys.argv[1])
    loop = assemble(workload)
    loop.step()
    activities = [ProfilerActivity.CPU]
    if workload.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as operators:
        loop.step()
    device = "cuda" if workload.device == "cuda" else "cpu"
    table = operators.key_averages().table(
        sort_by=f"self_{device}_time_total", row_limit=ROWS, max_name_column_width=40
    )
    functions = cProfile.Profile()
    functions.runcall(loop.step)
    print(table)
    pstats.Stats(functions).sort_stats("tottime").print_stats(ROWS)


main()
