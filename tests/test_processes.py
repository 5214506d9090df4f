"""Two processes that share a loop do what one does alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_loops import OBJECTIVES, UPDATES, trained

from klvi.processes import Processes

TIMES = {"seconds", "tokens_per_second"}
COUNT = 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has found."""
    folder = tmp_path_factory.mktemp("shared")
    program = Path(__file__).with_name("shared_loops.py")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    running = [
        subprocess.Popen(
            [sys.executable, program, str(rank), str(COUNT), str(folder)], env=environment
        )
        for rank in range(COUNT)
    ]
    assert [process.wait(timeout=300) for process in running] == [0] * COUNT
    return [torch.load(folder / f"{rank}.pt") for rank in range(COUNT)]


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_weights_are_those_of_one_process(objective: str, shared: list[dict[str, Any]]) -> None:
    alone = trained(objective)
    first, second = (each[objective] for each in shared)
    assert len(first["records"]) == UPDATES
    for ours, theirs in zip(first["weights"], second["weights"], strict=True):
        assert torch.equal(ours, theirs)
    for ours, before, one in zip(first["weights"], alone["start"], alone["weights"], strict=False):
        moved = (one - before).norm()
        assert moved > 1e-3
        assert (ours - one).norm() < 1e-3 * moved
    for ours, one in zip(first["records"], alone["records"], strict=True):
        for name in ours.keys() - TIMES:
            # Clipped fractions count what lies on either side of a tie by its rounding.
            if not name.startswith("time/") and "clipfrac" not in name:
                assert ours[name] == pytest.approx(one[name], rel=1e-3, abs=3e-4), name


@pytest.mark.slow
def test_all_processes_measure_the_same(shared: list[dict[str, Any]]) -> None:
    first, second = (each["gdc"] for each in shared)
    assert first["metrics"] == second["metrics"]
    assert first["texts"] == second["texts"]
    assert len(first["texts"]) == 65


@pytest.mark.slow
def test_a_failure_in_one_process_ends_them_all(shared: list[dict[str, Any]]) -> None:
    first, second = (each["failure"] for each in shared)
    assert "process 1 failed" in first
    assert "no reward here" in second


def test_shards_hold_each_row_once() -> None:
    class Third(Processes):
        def __init__(self, rank: int) -> None:
            self.rank, self.count = rank, 3

    for rows in range(9):
        shards = [Third(rank).shard(rows) for rank in range(3)]
        assert [row for shard in shards for row in shard] == list(range(rows))
        assert max(map(len, shards)) - min(map(len, shards)) <= 1
