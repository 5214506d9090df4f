"""What the folders of runs tell, whole or not; nothing in them is changed or followed."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from stored_runs import METRICS, stored_run

from klvi.runs.listing import STATUSES, ListedRun, listed_runs, read_run
from klvi.runs.lock import FolderLock, Owner


def found(root: Path) -> dict[str, ListedRun]:
    return {str(run.folder.relative_to(root)): run for run in listed_runs(root)}


def everything(root: Path) -> list[tuple[str, float, int]]:
    paths = sorted([root, *root.rglob("*")])
    return [(str(path), os.lstat(path).st_mtime, os.lstat(path).st_size) for path in paths]


def test_a_finished_run_tells_all(tmp_path: Path) -> None:
    run = read_run(stored_run(tmp_path / "a", beta=0.3))
    assert (run.status, run.reason, run.update, run.seconds) == ("finished", None, 50, 75.2)
    assert run.started == "2026-01-31T12:00:00+00:00"
    assert run.config["beta"] == 0.3
    assert run.metrics == METRICS


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_one_that_ended_early_says_why_and_from_where_it_goes_on(
    status: str, tmp_path: Path
) -> None:
    run = read_run(stored_run(tmp_path / "a", status, saved=25, reason="no more"))
    assert (run.status, run.reason, run.update) == (status, "no more", 25)


def test_one_that_was_killed_has_stopped(tmp_path: Path) -> None:
    assert read_run(stored_run(tmp_path / "a", None, saved=25)).update == 25
    assert read_run(stored_run(tmp_path / "b", None)).update == 0
    assert read_run(tmp_path / "a").status == read_run(tmp_path / "b").status == "stopped"


def test_one_that_is_locked_is_running(tmp_path: Path) -> None:
    folder = stored_run(tmp_path / "a", None, saved=25)
    (folder / "metrics.jsonl").write_text('{"update": 30}\n{"update": 31}\n{"upda')
    lock = FolderLock(folder)
    lock.acquire(lambda _: None)
    try:
        before = everything(folder)
        run = read_run(folder)
        assert everything(folder) == before
    finally:
        lock.release()
    assert (run.status, run.update) == ("running", 31)
    assert read_run(folder).status == "stopped"


def owned(folder: Path, owner: Owner | None, age: float) -> str:
    (folder / ".klvi.lock").touch()
    os.utime(folder / ".klvi.lock", (time.time() - age,) * 2)
    if owner is not None:
        (folder / ".klvi.owner").write_text(json.dumps(asdict(owner)))
    return read_run(folder).status


def test_a_dead_owner_holds_nothing(tmp_path: Path) -> None:
    here = Owner.here()
    dead = Owner(here.host, 2**22 + 1, None, here.since)
    elsewhere = Owner("elsewhere", 1, None, here.since)
    cases = [(here, 999, "running"), (dead, 0, "stopped"), (elsewhere, 0, "running")]
    cases += [(elsewhere, 999, "stopped")]
    for number, (owner, age, status) in enumerate(cases):
        assert owned(stored_run(tmp_path / str(number), None), owner, age) == status
    assert owned(stored_run(tmp_path / "unknown", None), None, 0) == "running"


def test_runs_are_found_at_any_depth_and_links_left_alone(tmp_path: Path) -> None:
    root, other = tmp_path / "runs", tmp_path / "other"
    for name in ("kl/1", "sweep/1/0", "sweep/1/1", "a/b/c/d"):
        stored_run(root / name)
    stored_run(other / "1")
    (root / "linked").symlink_to(other)
    (root / "kl" / "1" / "below").mkdir()
    stored_run(root / "kl" / "1" / "below" / "none")
    (root / "eval" / "1").mkdir(parents=True)
    (root / "eval" / "1" / "eval.json").touch()
    assert set(found(root)) == {"kl/1", "sweep/1/0", "sweep/1/1", "a/b/c/d"}
    (tmp_path / "link").symlink_to(root)
    assert len(list(listed_runs(tmp_path / "link"))) == 4


def truncate(folder: Path) -> None:
    file = folder / "config.yaml"
    file.write_text(file.read_text()[:100])


def link(name: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        elsewhere = folder.parent / "secret"
        (folder / name).rename(elsewhere)
        (folder / name).symlink_to(elsewhere)

    return put


BREAKING = {
    "config.yaml: it is cut short": truncate,
    "config.yaml: it is a link|config.yaml: .*link": link("config.yaml"),
    "summary.json: .*link": link("summary.json"),
    "config.yaml is missing": lambda folder: (folder / "config.yaml").unlink(),
    "summary.json: ": lambda folder: (folder / "summary.json").write_text('{"status'),
    "summary.json: is not a JSON object": lambda folder: (folder / "summary.json").write_text("3"),
    "summary.json: has no status": lambda folder: (folder / "summary.json").write_text("{}"),
    "config.yaml: .*tag": lambda folder: (folder / "config.yaml").write_text(
        "a: !!python/x 1\n..."
    ),
    "config.yaml: ": lambda folder: (folder / "config.yaml").write_bytes(b"\xff\n..."),
}


@pytest.mark.parametrize("reason", BREAKING)
def test_what_is_broken_is_listed_with_the_reason(reason: str, tmp_path: Path) -> None:
    stored_run(tmp_path / "runs" / "whole")
    BREAKING[reason](stored_run(tmp_path / "runs" / "broken"))
    runs = found(tmp_path / "runs")
    assert runs["whole"].status == "finished"
    assert runs["broken"].status == "broken"
    assert re.match(reason, runs["broken"].reason or "")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    folder = stored_run(tmp_path / "a")
    for name in ("config.yaml", "manifest.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    assert read_run(folder).status == "broken"


def test_checkpoints_behind_a_link_are_none(tmp_path: Path) -> None:
    folder = stored_run(tmp_path / "a", None, saved=25)
    link("checkpoints")(folder)
    assert read_run(folder).update == 0


def test_a_job_that_was_refused_has_but_its_summary(tmp_path: Path) -> None:
    summary = {"status": "failed", "reason": "no such label", "metrics": {}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    run = read_run(tmp_path)
    assert (run.status, run.reason, dict(run.config)) == ("failed", "no such label", {})


def test_without_a_manifest_the_last_change_tells_the_time(tmp_path: Path) -> None:
    folder = stored_run(tmp_path / "a")
    (folder / "manifest.json").unlink()
    os.utime(folder / "config.yaml", (1_000_000_000,) * 2)
    assert read_run(folder).started == "2001-09-09T01:46:40+00:00"


def test_a_folder_that_cannot_be_read_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_run(tmp_path / "a")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    runs = found(tmp_path)
    assert (runs["a"].status, runs["closed"].status) == ("finished", "broken")
    assert "Permission denied" in (runs["closed"].reason or "")


def test_every_status_is_known(tmp_path: Path) -> None:
    stored_run(tmp_path / "a", "finished")
    assert {run.status for run in found(tmp_path).values()} <= set(STATUSES)
