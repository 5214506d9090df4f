"""Whose a folder is: new, empty, a run's; and who writes in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from klvi.errors import RunError, UserError
from klvi.runs import lock
from klvi.runs.folder import claimed, folder_problem, sweep_problem
from klvi.runs.lock import LOCK, OWNER, FolderLock, LostLockError, Owner, read_owner

HOLD = """
import sys
from pathlib import Path
from klvi.runs.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.acquire(print)
print("held", flush=True)
sys.stdin.read()
"""


def test_only_new_empty_and_runs_folders_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert folder_problem(folder) is None
    with claimed(folder, "hydra.run.dir", print):
        assert (folder / LOCK).exists()
    assert folder_problem(folder) is None
    (folder / "summary.json").write_text("precious")
    with pytest.raises(UserError, match=r"hydra\.run\.dir=.*no run of klvi"):
        claimed(folder, "hydra.run.dir", print).__enter__()
    assert os.listdir(folder) == ["summary.json"]
    (folder / "config.yaml").touch()
    assert folder_problem(folder) is None
    (folder / "run.log").symlink_to("/etc/passwd")
    assert "run.log is a link" in (folder_problem(folder) or "")


def test_sweeps_folders_hold_numbered_jobs_alone(tmp_path: Path) -> None:
    assert sweep_problem(tmp_path / "new") is None
    (tmp_path / "0").mkdir()
    (tmp_path / "multirun.yaml").touch()
    assert sweep_problem(tmp_path) is None
    (tmp_path / "thesis.tex").touch()
    assert "no sweep" in (sweep_problem(tmp_path) or "")


def test_a_live_owner_keeps_its_folder_and_a_dead_one_loses_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        owner = read_owner(tmp_path)
        assert owner is not None
        assert owner.process == holder.pid
        with pytest.raises(UserError, match=f"process {holder.pid} on .* writes in it"):
            FolderLock(tmp_path).acquire(print)
        holder.kill()
    with claimed(tmp_path, "run", print):
        assert read_owner(tmp_path) == replace(Owner.here(), since=read_owner(tmp_path).since)
    assert not (tmp_path / LOCK).exists()


def test_an_owner_elsewhere_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another host, with signs of life, then without."""
    marker = tmp_path / LOCK
    marker.write_text("filelock/2\npid=7\nhost=elsewhere\nmode=lease\ntoken=t\nduration=60.0\n")
    marker_of = Owner("elsewhere", 7, "job-1", "yesterday")
    (tmp_path / OWNER).write_text(json.dumps(asdict(marker_of)))
    beats = iter(range(1, 100))
    monkeypatch.setattr(lock.time, "sleep", lambda _: os.utime(marker, (1, next(beats))))
    told: list[str] = []
    with pytest.raises(UserError, match="process 7 on elsewhere, job job-1"):
        FolderLock(tmp_path).acquire(told.append)
    assert "waiting" in told[0]


def test_a_lock_that_was_lost_writes_nothing_more(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    held.acquire(print)
    held.check()
    held._lease._claim.compromise = SimpleNamespace(reason="owner-changed")
    with pytest.raises(RunError, match="took the folder over"):
        held.check()
    held._lease._claim.compromise = None
    held.release()


@pytest.mark.parametrize("seen", [True, False])
def test_a_folder_that_goes_while_it_is_locked_is_not_made_anew(tmp_path: Path, seen: bool) -> None:
    """Whether or not the lease has seen it yet."""
    with claimed(tmp_path / "run", "run", print) as held:
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        if seen:
            held._lease._claim.compromise = SimpleNamespace(reason="marker-missing")
        with pytest.raises(LostLockError, match=r"run: was moved or removed"):
            held.check()
    assert os.listdir(tmp_path) == ["elsewhere"]
