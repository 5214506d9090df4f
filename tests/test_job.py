"""However a job ends: a line that says why, an exit code, and a summary that is whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import SHORT, raising, summary, train_config

from klvi import interruption, job
from klvi.commands import train
from klvi.commands.context import Context
from klvi.errors import RunError, UserError, described
from klvi.job import mark_failed
from klvi.policy.policy import Policy
from klvi.runs.lock import LOCK, OWNER, FolderLock
from klvi.tracking.console import ConsoleTracker
from klvi.tracking.jsonl import JsonLines
from klvi.training.checkpoint import Checkpoints
from klvi.training.loop import Loop

CONFIG = train_config(objective={"name": "gdc"}, reward={"name": "letters"}, updates=3, **SHORT)
Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(tmp_path: Path, capsys: Any, default_signals: None) -> Run:
    """A job of `klvi train` in a new folder: its exit code, and what it told."""

    def call(config: Any = CONFIG) -> tuple[int, list[str]]:
        folder = tmp_path / "run"
        folder.mkdir()
        context = Context(folder, None, None, ())
        with interruption.watched():
            try:
                code = train.run(config, context)
            except BaseException as error:
                code = job._end(error, context, new=True)
        return code, [line for line in capsys.readouterr().err.splitlines() if "klvi:" in line]

    return call


@pytest.fixture
def at_update(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Has something happen when an update is complete."""

    def install(update: int, action: Callable[[], object]) -> None:
        step = Loop.step

        def stepping(loop: Loop) -> Any:
            record = step(loop)
            if loop.update == update:
                action()
            return record

        monkeypatch.setattr(Loop, "step", stepping)

    return install


# The call that fails, and what its path holds; the file that the line names, and the last update
# with a checkpoint.
WRITES = [
    ("open", "/metrics.jsonl", "metrics.jsonl", 2),
    ("open", "/samples.jsonl", "samples.jsonl", 2),
    ("mkdir", "/checkpoints/", "checkpoints/step-2", 1),
    ("fsync", "", "checkpoints/step-2/prior.json", 1),
    ("replace", "/checksums.json", "checkpoints/step-2/checksums.json", 1),
    ("rename", "/step-2", "checkpoints/step-2", 1),
    ("mkdir", "/run/.klvi-", "adapter", 3),
    ("rename", "/run/adapter", "adapter", 3),
    ("replace", "/summary.json", "summary.json", 3),
]
RARER = [WRITES[1], WRITES[2], WRITES[5], WRITES[6]]
NUMBERS = [errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EACCES, errno.EIO] * 2


@pytest.mark.parametrize(
    ("number", "call", "where", "named", "saved"),
    [
        pytest.param(number, *write, marks=[pytest.mark.slow] if write in RARER else [])
        for number, write in zip(NUMBERS, WRITES, strict=False)
    ],
)
def test_what_the_disk_refuses_in_a_run_is_one_line_and_costs_no_checkpoint(
    number: int,
    call: str,
    where: str,
    named: str,
    saved: int,
    run: Run,
    at_update: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = getattr(os, call)

    def failing(*arguments: Any, **others: Any) -> Any:
        if any(where in str(argument) for argument in arguments[:2]):
            path = None if call == "fsync" else str(arguments[0])
            raise OSError(number, os.strerror(number), path)
        return real(*arguments, **others)

    at_update(2, lambda: monkeypatch.setattr(os, call, failing))
    code, lines = run()
    monkeypatch.setattr(os, call, real)
    folder = tmp_path / "run"
    assert code == 1
    of_it = [line for line in lines if line.startswith(f"klvi: error: {folder / named}: ")]
    assert len(of_it) == 1
    assert os.strerror(number) in of_it[0]
    newest = Checkpoints(folder / "checkpoints").newest_whole()
    assert newest == folder / "checkpoints" / f"step-{saved}"
    assert lines == of_it
    if call == "fsync" or where == "/summary.json":  # of fsync's nothing can be written
        assert not (folder / "summary.json").exists()
    else:
        assert summary(folder)["status"] == "failed"
        assert of_it == [f"klvi: error: {summary(folder)['reason']}"]
    assert not list(folder.rglob(".klvi-*.tmp"))


@pytest.mark.parametrize("end", ["moved", "removed"])
def test_a_run_whose_folder_goes_leaves_no_other_in_its_place(
    end: str, run: Run, at_update: Any, tmp_path: Path
) -> None:
    folder, moved = tmp_path / "run", tmp_path / "moved"
    at_update(2, lambda: folder.rename(moved) if end == "moved" else shutil.rmtree(folder))
    code, lines = run()
    assert code == 1
    (line,) = lines
    assert line.startswith(f"klvi: error: {folder}: was moved or removed")
    assert not folder.exists()
    if end == "moved":
        assert Checkpoints(moved / "checkpoints").newest_whole() == moved / "checkpoints/step-1"


@pytest.mark.parametrize(("checkpoints", "code"), [(2.9, 2), (3, 0)])
def test_a_run_whose_checkpoints_find_no_room_is_refused(
    checkpoints: float, code: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of nine to keep, three are to come."""

    def disk(_: Path) -> SimpleNamespace:
        free = int(checkpoints * 2 * sum(weights))
        return SimpleNamespace(total=1 << 40, free=free)

    weights: list[int] = []
    parameters = Policy.adapter_parameters

    def counted(policy: Policy) -> Any:
        weights[:] = [p.nbytes for p in parameters(policy)]
        return parameters(policy)

    monkeypatch.setattr(Policy, "adapter_parameters", counted)
    monkeypatch.setattr("shutil.disk_usage", disk)
    ended, lines = run()
    assert ended == code
    if code:
        (line,) = lines
        assert line.startswith(f"klvi: error: {tmp_path / 'run/checkpoints'}: needs ")
        assert not (tmp_path / "run").exists()


def test_a_log_that_cannot_be_written_ends_nothing(
    run: Run, at_update: Any, tmp_path: Path
) -> None:
    at_update(2, lambda: ((tmp_path / "run/run.log").unlink(), (tmp_path / "run/run.log").mkdir()))
    assert run() == (0, [])
    assert summary(tmp_path / "run")["status"] == "finished"


@pytest.mark.parametrize("update", [1, 3])
def test_a_lost_lock_is_one_line_and_nothing_more_is_written(
    update: int, run: Run, at_update: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when the other is done already; told before a record and before the summary."""
    folder, stopped = tmp_path / "run", []
    before: dict[Path, bytes] = {}
    check = FolderLock.check

    def lost(lock: Any) -> None:
        lock._lease._claim.compromise = SimpleNamespace(reason="owner-changed")
        check(lock)

    def lose() -> None:
        (folder / OWNER).unlink()
        (folder / LOCK).unlink()
        before.update({path: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
        monkeypatch.setattr(FolderLock, "check", lost)

    if update == 1:
        at_update(1, lose)
    else:
        monkeypatch.setattr("klvi.runs.run.Run._save_adapter", lambda self: lose())
    monkeypatch.setattr("klvi.tracking.output.Output.stop", lambda self: stopped.append(True))
    code, lines = run()
    assert code == 1
    (line,) = lines
    assert f"{folder}: this process was still for so long that another took the folder" in line
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert stopped


@pytest.mark.parametrize(
    ("tracker", "method"),
    [
        *((ConsoleTracker, "start"), (JsonLines, "log_evaluation")),
        *((ConsoleTracker, "log_update"), (ConsoleTracker, "finish")),
    ],
)
def test_a_tracker_that_raises_costs_no_update(
    tracker: type, method: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, *arguments: Any) -> None:
        raise ZeroDivisionError("of a tracker's own")

    monkeypatch.setattr(tracker, method, fail)
    code, _ = run(CONFIG.model_copy(update={"updates": 1}))
    folder = tmp_path / "run"
    assert code == 1
    assert summary(folder)["status"] == "failed"
    assert summary(folder)["reason"] == "ZeroDivisionError: of a tracker's own"
    assert (folder / "checkpoints" / "step-1").is_dir() == (method == "finish")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space", "/a/b"),
            1,
            "/a/b: No space; free some space, or choose",
        ),
        (OSError("odd"), 1, "odd"),
        (OSError(), 1, "OSError"),
        (
            PermissionError(errno.EACCES, "Permission denied", "x\x1b"),
            1,
            r"x\x1b: Permission denied;",
        ),
        (MemoryError(), 1, "MemoryError"),
        (MemoryError("of 9 GB"), 1, "MemoryError: of 9 GB"),
        (RunError("it ended"), 1, "it ended"),
        (UserError("beta=0: must be positive"), 2, "beta=0: must be positive"),
    ],
)
def test_what_is_known_to_happen_is_one_line(
    error: Exception, code: int, line: str, run: Run, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(train, "_check_folder", raising(error))
    ended, (told,) = run()
    assert ended == code
    assert told.startswith(f"klvi: error: {line}")
    # Nothing was trained: nothing is left.
    assert not (tmp_path / "run").exists()


class OwnError(BaseException):
    """What no code but a user's raises."""


@pytest.mark.parametrize(
    "error",
    [
        *(RecursionError("too deep"), KeyboardInterrupt(), SystemExit(0), SystemExit("x")),
        *(GeneratorExit(), OwnError("own"), ZeroDivisionError("by zero"), StopIteration()),
    ],
)
def test_what_is_not_known_has_its_traceback_and_fails_the_run_alone(
    error: BaseException, capsys: Any, tmp_path: Path, default_signals: None
) -> None:
    context = Context(tmp_path / "0", 0, tmp_path, ())
    (tmp_path / "0").mkdir()
    with interruption.watched():
        try:
            raise error
        except BaseException as raised:
            code = job._end(raised, context, new=True)
    assert code == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert summary(tmp_path / "0") == {
        "status": "failed",
        "reason": described(error),
        "metrics": {},
    }


def test_of_a_job_that_failed_what_its_run_has_said_stays(tmp_path: Path) -> None:
    context = Context(tmp_path, None, None, ())
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n")
    said = {"status": "interrupted", "reason": "by a signal", "metrics": {"eval/reward": 1}}
    for content, kept in [
        (json.dumps(said), said),
        ('{"status": "finished"}', None),
        ("[1]", None),
        ('{"status": ', None),
        ("[" * 99_999, None),
    ]:
        (tmp_path / "summary.json").write_text(content)
        mark_failed(context, "the reason", refused=False)
        failed = {"status": "failed", "reason": "the reason", "metrics": {}}
        assert summary(tmp_path) == (kept or failed)


@pytest.mark.parametrize("spoil", ["gone", "a file", "a link", "another's", "summary is a folder"])
def test_a_folder_that_cannot_be_marked_is_left_alone(
    spoil: str, tmp_path: Path, capsys: Any
) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text("{}\n{}\n")
    if spoil == "a file":
        folder.touch()
    elif spoil == "a link":
        folder.symlink_to(other)
    elif spoil != "gone":
        other.rename(folder)
        other.mkdir()
    if spoil == "another's":
        owner = {"host": "elsewhere", "process": 7, "job": None, "since": "now"}
        (folder / OWNER).write_text(json.dumps(owner))
    if spoil == "summary is a folder":
        (folder / "summary.json").mkdir()
    before = sorted(tmp_path.rglob("*"))
    mark_failed(Context(folder, None, None, ()), "the reason", refused=True)
    assert sorted(tmp_path.rglob("*")) == before
    told = capsys.readouterr().err
    assert told.startswith(f"klvi: error: {folder}/summary.json: ") == (spoil.startswith("summary"))


@pytest.mark.parametrize("update", [1, 2])
def test_a_policy_that_diverges_names_what_is_left(
    update: int, run: Run, at_update: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, folder = Loop.check_policy, tmp_path / "run"

    def diverge(loop: Loop) -> None:
        if loop.update == update:
            loop._check("the log-probabilities are", torch.tensor(torch.nan), update=update)
        check(loop)

    monkeypatch.setattr(Loop, "check_policy", diverge)
    code, (line,) = run()
    assert code == 2
    assert line.startswith(f"klvi: error: update {update}: the log-probabilities are no longer")
    left = "none yet" if update == 1 else f"{folder}/checkpoints/step-1 is intact"
    assert line.endswith(f"; the last checkpoint: {left}")
    assert Checkpoints(folder / "checkpoints").steps() == list(range(1, update))
    assert f"klvi: error: {summary(folder)['reason']}" == line


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_that_is_not_finite_is_refused_in_one_line(
    value: float, tmp_path: Path, policy: Policy
) -> None:
    with torch.no_grad():
        policy.adapter_parameters()[1][0] = value
    policy.save_adapter(tmp_path)
    with pytest.raises(UserError, match=rf"{tmp_path}: its adapter is not finite") as raised:
        policy.load_adapter(tmp_path)
    assert len(raised.value.problems) == 1
