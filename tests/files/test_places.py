"""Places that klvi keeps away from."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from klvi.errors import RunError
from klvi.files import append_text, new_file_problem, new_folder_problem, read_text, room_problem


@pytest.fixture(params=["link", "dangling", "fifo", "folder"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "odd"
    if request.param == "link":
        (tmp_path / "target").write_text("precious")
        path.symlink_to(tmp_path / "target")
    elif request.param == "dangling":
        path.symlink_to(tmp_path / "nothing")
    elif request.param == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    return path


def test_odd_paths_are_neither_read_nor_written(odd: Path) -> None:
    assert new_file_problem(str(odd), overwrite=True) is not None
    with pytest.raises(RunError, match="odd"):
        append_text(odd, "more")
    with pytest.raises(OSError, match="odd"):
        read_text(odd)
    target = odd.parent / "target"
    assert not target.exists() or target.read_text() == "precious"


@pytest.mark.parametrize(
    "path", ["/dev/null", "/dev/stdout", "/proc/klvi/x", "/proc/x", "name/", ""]
)
def test_other_odd_places_are_refused(path: str) -> None:
    assert new_file_problem(path, overwrite=True) is not None


def test_folders_are_new_or_empty(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    assert new_folder_problem(str(folder)) is None
    folder.mkdir()
    assert new_folder_problem(str(folder)) is None
    (folder / "notes").touch()
    assert "is empty" in (new_folder_problem("") or "")
    assert "/proc takes no new files" in (new_folder_problem("/proc/klvi/x") or "")
    assert "not empty" in (new_folder_problem(str(folder)) or "")
    assert "is a file" in (new_folder_problem(str(folder / "notes")) or "")
    assert "is not a folder" in (new_folder_problem(str(folder / "notes" / "x")) or "")


def test_room_is_missed_only_where_that_is_evident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a" / "b"
    assert room_problem(place, 1) is None
    assert re.fullmatch(
        rf"{place}: needs 1,000,000,000,000\.0 MB, and [0-9,.]+ MB are free; free some space, .*",
        room_problem(place, 10**18) or "",
    )
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=0, free=0))
    assert room_problem(place, 1) is None


def test_what_belongs_to_a_run_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("one of somebody's project\n")
    assert new_file_problem(str(tmp_path / "samples.jsonl")) is None
    (tmp_path / "manifest.json").write_text("{}\n")
    for name in ("config.yaml", "samples.jsonl", "adapter/new"):
        problem = new_file_problem(str(tmp_path / name), overwrite=True)
        assert problem == "belongs to the run in whose folder it is; give another name"
    assert new_file_problem(str(tmp_path / "eval.json"), overwrite=True) is None
