"""The table of a sweep."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from klvi.tracking.output import Output
from klvi.tracking.sweep import print_sweep

SUMMARY = {
    "status": "finished",
    "seconds": 75.2,
    "metrics": {
        "eval/reward": {"value": 0.953, "low": 0.9, "high": 1.0, "n": 512},
        "eval/kl_prior": {"value": 4.612, "low": 4.0, "high": 5.0, "n": 512},
        "eval/kl_target_reverse": {"value": None, "reason": "violated by 3 samples"},
        "eval/kl_target_forward": {"value": 0.41, "low": 0.3, "high": 0.5, "n": 512},
        "eval/entropy": {"value": 25.12, "low": 25.0, "high": 25.2, "n": 512},
        "eval/repetition_2": {"value": 0.031, "low": 0.0, "high": 0.1, "n": 512},
    },
}


def printed(folder: Path, jobs: list[dict[str, str]]) -> tuple[bool, list[list[str]]]:
    """In a terminal of 80 columns, the narrowest that is common."""
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    finished = print_sweep(folder, jobs, Output(console))
    return finished, [line.split() for line in file.getvalue().splitlines()]


def write(folder: Path, summary: object) -> None:
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary))


def test_a_row_for_every_job(tmp_path: Path) -> None:
    write(tmp_path / "0", SUMMARY)
    write(tmp_path / "1", SUMMARY | {"status": "interrupted"})
    finished, rows = printed(tmp_path, [{"objective": "gdc", "beta": b} for b in ("0.1", "3e-05")])
    assert not finished
    numbers = ["0.953", "4.612", "—", "0.410", "25.120", "0.031", "1:15"]
    assert ["0", "gdc", "0.1", "finished", *numbers] in rows
    assert ["1", "gdc", "3e-05", "interrupted", *numbers] in rows


def test_all_finished(tmp_path: Path) -> None:
    write(tmp_path / "0", SUMMARY)
    assert printed(tmp_path, [{}])[0]


def test_jobs_that_left_nothing_or_rubbish(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "summary.json").write_text("{")
    finished, rows = printed(tmp_path, [{"seed": "0"}, {"seed": "1"}])
    assert not finished
    assert ["0", "0", "no", "summary"] in rows
    assert ["1", "1", "broken", "summary"] in rows


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"[" * 100_000,
        b'{"status": 3}',
        b'{"seconds": 1}',
        b"\xff",
        b'{"status": "finished"' + b" " * (1 << 27) + b"}",
    ],
)
def test_a_summary_that_is_none_is_said_to_be_broken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "summary.json").write_bytes(content)
    finished, rows = printed(tmp_path, [{}])
    assert not finished
    assert ["0", "broken", "summary"] in rows


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_a_summary_that_is_no_file_is_not_opened(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "0").mkdir()
    make(tmp_path / "0" / "summary.json")
    assert ["0", "broken", "summary"] in printed(tmp_path, [{}])[1]


@pytest.mark.parametrize(
    "metrics", [[], None, "x", {"eval/reward": 3}, {"eval/reward": {"value": "x"}}]
)
@pytest.mark.parametrize("seconds", ["long", None, [1], True, math.inf])
def test_what_is_no_number_in_a_summary_is_left_out(
    tmp_path: Path, metrics: object, seconds: object
) -> None:
    write(tmp_path / "0", {"status": "a\x1b[31m", "seconds": seconds, "metrics": metrics})
    _, rows = printed(tmp_path, [{}])
    (row,) = (row for row in rows if row[:1] == ["0"])
    assert row[1] == "a\\x1b[31m"
    assert set(row[2:]) <= {"—"}


def test_the_reason_of_a_failure_stands_below(tmp_path: Path) -> None:
    write(tmp_path / "0", {"status": "failed", "reason": "a\x1b[31m b", "metrics": {}})
    _, rows = printed(tmp_path, [{}])
    assert ["job", "0:", "a\\x1b[31m", "b"] in rows


def test_values_are_told_apart_without_what_they_share(tmp_path: Path) -> None:
    for index in range(2):
        write(tmp_path / str(index), SUMMARY)
    functions = [f"/home/someone/a/long/way/score.py:{name}" for name in ("short", "loud")]
    jobs = [{"reward.function": function, "beta": "0.1"} for function in functions]
    _, rows = printed(tmp_path, jobs)
    for index, name in enumerate(("short", "loud")):
        assert any(row[:3] == [str(index), name, "0.1"] for row in rows)


def test_a_file_is_written_wide(tmp_path: Path) -> None:
    write(tmp_path / "0", SUMMARY)
    file = io.StringIO()
    print_sweep(tmp_path, [{"key": "v" * 45}], Output(Console(file=file, width=80)))
    assert "v" * 45 in file.getvalue()


def test_summaries_that_cannot_be_read_have_their_rows(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).mkdir()
    (tmp_path / "0/summary.json").mkdir()
    (tmp_path / "1/summary.json").write_text("[" * 100_000)
    (tmp_path / "2/summary.json").write_text("[1]")
    (tmp_path / "3/summary.json").write_text("{}")
    finished, rows = printed(tmp_path, [{"seed": str(number)} for number in range(4)])
    assert not finished
    found = [row[2:4] for row in rows if row and row[0].isdecimal()]
    assert found == [["broken", "summary"]] * 4
