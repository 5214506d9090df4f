"""Runs that a reward function ends, on the installed command."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

SMALL = (
    "model=enumerable",
    "model.letters=3",
    "model.length=3",
    "objective=gdc",
    "lora.r=4",
    "batch_size=32",
    "updates=3",
    "evaluation.samples=64",
    "evaluation.prior_samples=64",
    "evaluation.ess_floor=2",
    "threads=1",
    "device=cpu",
)
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


def test_a_sweep_goes_on_and_says_what_ended_each_job(tmp_path: Path, installed_klvi: Path) -> None:
    (tmp_path / "score.py").write_text(SOURCE)
    (tmp_path / "neighbour.py").write_text("def score(texts): return [t.count('b') for t in texts]")
    functions = [f"score.py:{name}" for name in ("exits", "columns", "raises", "fine")]
    result = subprocess.run(
        [installed_klvi, "train", "-m", *SMALL, "reward=python", "hydra.sweep.dir=sweep",
         f"reward.function={','.join(functions)}"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    jobs = [tmp_path / "sweep" / str(number) for number in range(4)]
    summaries = [json.loads((job / "summary.json").read_text()) for job in jobs]
    assert [s["status"] for s in summaries] == ["failed", "failed", "failed", "finished"]
    reasons = [s.get("reason") or "" for s in summaries]
    assert "score.py:exits) exits: SystemExit: enough" in reasons[0]
    assert "columns(texts, answer) takes answer" in reasons[1]
    assert "raised ValueError: no score" in reasons[2]
    for number in range(3):
        assert f"job {number}: {reasons[number]}" in result.stdout
    assert (jobs[0] / "checkpoints" / "step-1").is_dir()
    assert [file.name for job in jobs[1:3] for file in job.iterdir()] == ["summary.json"] * 2
    assert "scoring" not in result.stdout
