"""Offline wandb runs, read back from their files; and what happens when wandb fails."""

import io
import json
import os
import struct
import sys
from pathlib import Path

import pytest
import wandb
from rich.console import Console
from wandb.proto import wandb_internal_pb2

from klvi.errors import RunError
from klvi.tracking import schema
from klvi.tracking.base import flatten
from klvi.tracking.build import build_tracker
from klvi.tracking.output import Output
from klvi.tracking.wandb import WandbTracker, _stable_id

BLOCK = 32768
FILE_HEADER, RECORD_HEADER = 7, struct.Struct("<IHB")
FULL, LAST = 1, 4


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No account, no network, nothing outside the test's folder, no wandb run left over."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for folder in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{folder}_DIR", str(tmp_path / folder.lower()))
    yield
    wandb.teardown()


@pytest.fixture
def output():
    return Output(Console(file=io.StringIO(), width=200, highlight=False, markup=False))


def read_records(file):
    """The records of a `.wandb` file, which is a LevelDB log."""
    data, position, parts = file.read_bytes(), FILE_HEADER, b""
    while position + RECORD_HEADER.size <= len(data):
        if BLOCK - position % BLOCK < RECORD_HEADER.size:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = RECORD_HEADER.unpack_from(data, position)
        position += RECORD_HEADER.size
        parts += data[position : position + length]
        position += length
        if kind in (FULL, LAST):
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def read_run(directory):
    """The run record, config, history rows and exit code of the latest run in a folder."""
    wandb.teardown()  # `finish` returns a moment before the file is written
    records = list(read_records(sorted(directory.glob("wandb/offline-run-*/*.wandb"))[-1]))
    run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    rows = [
        {
            item.key or ".".join(item.nested_key): json.loads(item.value_json)
            for item in r.history.item
        }
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    codes = [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"]
    return run, config, rows, codes


def tracked(config, **options):
    tracking = schema.WandbTracking(name="wandb", tags=["first"], **options)
    return config.model_copy(update={"tracking": tracking})


def follow(config, output, directory, samples, measurements, status="finished", resumed=None):
    tracker = build_tracker(config.tracking, output, resumed)
    tracker.start(config.model_dump(mode="json"), directory)
    tracker.log_update({"update": 20, "objective/kl": 4.25, **flatten(measurements)})
    tracker.log_evaluation(20, measurements, samples)
    tracker.finish({"status": status})


def test_an_offline_run_holds_everything(config, output, tmp_path, samples, measurements, capfd):
    directory = tmp_path / "run"
    follow(tracked(config), output, directory, samples, measurements)
    run, stored, rows, codes = read_run(directory)
    assert (run.project, run.run_group, run.job_type) == ("klvi", "paris", "kl")
    assert list(run.tags) == ["first"]
    assert stored["beta"] == 0.1
    assert (stored["reward"]["name"], stored["reward"]["text"]) == ("contains", "Paris")
    metrics = next(row for row in rows if "objective/kl" in row)
    assert (metrics["update"], metrics["objective/kl"]) == (20, 4.25)
    assert [metrics[f"eval/kl_prior{end}"] for end in ("", "/low", "/high")] == [1.5, 1.25, 1.75]
    assert "eval/kl_target_reverse" not in metrics
    table = next(row for row in rows if "samples.path" in row)
    assert (table["update"], table["samples._type"], table["samples.nrows"]) == (
        20,
        "table-file",
        4,
    )
    file = next(directory.glob(f"wandb/offline-run-*/files/{table['samples.path']}"))
    written = json.loads(file.read_text())
    assert [row[written["columns"].index("text")] for row in written["data"]] == samples.texts
    assert codes == [0]
    assert "wandb" not in output.terminal.file.getvalue()
    assert capfd.readouterr() == ("", "")  # wandb itself is silent


def test_group_and_job_type_can_be_chosen(config, output, tmp_path, samples, measurements):
    chosen = tracked(config, group="sweep", job_type="ablation", project="other")
    follow(chosen, output, tmp_path, samples, measurements, status="failed")
    run, _, _, codes = read_run(tmp_path)
    assert (run.project, run.run_group, run.job_type) == ("other", "sweep", "ablation")
    assert codes == [1]


@pytest.mark.slow
def test_a_resume_goes_on_with_the_same_run(config, output, tmp_path, samples, measurements):
    ids = []
    for folder, resumed in (("a", None), ("a", 20), ("b", None)):
        follow(tracked(config), output, tmp_path / folder, samples, measurements, resumed=resumed)
        ids.append(read_run(tmp_path / folder)[0].run_id)
    assert ids[0] == ids[1] != ids[2]


def failing(*arguments, **options):
    raise RuntimeError("no room\nleft")


@pytest.mark.parametrize("stage", ["start", "log", "finish"])
def test_a_failure_is_told_once_and_survived(
    config, output, tmp_path, samples, measurements, monkeypatch, stage
):
    target = {"start": (wandb, "init"), "log": (wandb.Run, "log"), "finish": (wandb.Run, "finish")}
    with monkeypatch.context() as patch:
        patch.setattr(*target[stage], failing)
        follow(tracked(config), output, tmp_path, samples, measurements)
    told = [line for line in (tmp_path / "run.log").read_text().splitlines() if "wandb" in line]
    assert told == [f"wandb failed at {stage} and is off for this run: no room"]
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "finished"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_missing_wandb_is_survived(config, output, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = WandbTracker(output)
    tracker.start({}, tmp_path)
    tracker.log_update({"update": 1})
    tracker.finish({"status": "finished"})
    shown = output.terminal.file.getvalue()
    assert shown.startswith("wandb failed at start and is off for this run: import of wandb halted")
    assert len(shown.splitlines()) == 1


def test_without_an_account_the_remedy_is_told(config, output, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb, "login", lambda **options: False)
    tracker = WandbTracker(output, mode="online")
    tracker.start(config.model_dump(mode="json"), tmp_path)
    assert "run `wandb login`, or set WANDB_MODE=offline" in output.terminal.file.getvalue()


def test_wandb_is_used_only_if_asked(config, output, tmp_path, samples, measurements):
    follow(config, output, tmp_path, samples, measurements)
    assert not (tmp_path / "wandb").exists()


def test_a_folder_keeps_its_id_and_gets_another_for_rubbish(tmp_path: Path) -> None:
    first = _stable_id(tmp_path)
    assert _stable_id(tmp_path) == first
    file = tmp_path / "wandb" / "run-id"
    for rubbish in (b"", b"../../x", b"a b", b"\xff"):
        file.write_bytes(rubbish)
        found = _stable_id(tmp_path)
        assert found.isalnum()
        assert _stable_id(tmp_path) == found
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(RunError, match="FIFO"):
        _stable_id(tmp_path)
