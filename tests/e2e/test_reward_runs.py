"""Runs that a reward function ends, in a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import SMALL_RUN, command

SOURCE = """
import sys
import neighbour

calls = 0

def exits(texts):
    global calls
    calls += len(texts) == 32  # rollouts; evaluations have other sizes
    if calls == 2:
        sys.exit("enough")
    return neighbour.score(texts)

def columns(texts, answer):
    return [0.0] * len(texts)

def raises(texts):
    raise ValueError("no score")

async def fine(completions, prompts, **kwargs):
    print("scoring")
    return neighbour.score(completions)
"""


@pytest.mark.slow
def test_a_sweep_goes_on_and_says_what_ended_each_job(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SOURCE)
    (tmp_path / "neighbour.py").write_text("def score(texts): return [t.count('b') for t in texts]")
    functions = [f"score.py:{name}" for name in ("exits", "columns", "raises", "fine", "exits")]
    result = command(
        tmp_path, "train", "-m", *SMALL_RUN, "objective=gdc", "updates=3", "reward=python",
        "hydra.sweep.dir=sweep", f"reward.function={','.join(functions)}", COLUMNS="100",
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    jobs = [tmp_path / "sweep" / str(number) for number in range(5)]
    summaries = [json.loads((job / "summary.json").read_text()) for job in jobs]
    assert [s["status"] for s in summaries] == [*["failed"] * 3, "finished", "failed"]
    reasons = [s.get("reason") or "" for s in summaries]
    for number in (0, 4):  # the file is imported anew, with no calls
        assert "score.py:exits) exits: SystemExit: enough" in reasons[number]
        assert (jobs[number] / "checkpoints" / "step-1").is_dir()
    assert "columns(texts, answer) takes answer" in reasons[1]
    assert "raised ValueError: no score" in reasons[2]
    for number in range(3):
        assert f"job {number}: {reasons[number]}" in result.stdout
    assert [file.name for job in jobs[1:3] for file in job.iterdir()] == ["summary.json"] * 2
    assert "scoring" not in result.stdout
