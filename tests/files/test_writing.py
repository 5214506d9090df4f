"""Files and folders that are whole or not there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from klvi.errors import RunError
from klvi.files import append_text, new_file_problem, remove_leftovers, whole_folder, write_whole
from klvi.runs.folder import holds_nothing


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    assert new_file_problem(str(path)) is None
    path.write_text("precious")
    assert "overwrite=true" in (new_file_problem(str(path)) or "")
    assert new_file_problem(str(path), overwrite=True) is None
    with pytest.raises(RunError, match="has appeared meanwhile"):
        write_whole(path, "new", replace=False)
    assert path.read_text() == "precious"
    assert [p.read_text() for p in tmp_path.glob(".klvi-*.tmp")] == ["new"]
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["numbers.json"]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    write_whole(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"summary\.json: No space left on device; free"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["summary.json"]


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "private.json"
    path.write_text("old")
    path.chmod(0o600)
    write_whole(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_a_folder_has_the_modes_that_the_umask_gives(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with whole_folder(tmp_path / "adapter") as building:
            (building / "weights").touch(0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "adapter" / "weights").stat().st_mode) == mode


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "adapter") as building:
        (building / "weights").write_text("old")
    with pytest.raises(KeyError), whole_folder(tmp_path / "adapter", replace=True):
        raise KeyError
    with pytest.raises(RunError), whole_folder(tmp_path / "adapter"):
        pass  # the folder is not empty, and was not to be replaced
    assert (tmp_path / "adapter" / "weights").read_text() == "old"
    assert os.listdir(tmp_path) == ["adapter"]


def test_only_klvis_own_leftovers_are_removed(tmp_path: Path) -> None:
    mine = [tmp_path / name for name in (".klvi-x.tmp", ".klvi-notes.tmp", ".klvi-0123.tmp")]
    for file in mine:
        file.write_text("mine")
    assert not holds_nothing(tmp_path)
    leftover = tmp_path / ".klvi-0123456789ab.tmp"
    leftover.write_text("half")
    remove_leftovers(tmp_path)
    assert not leftover.exists()
    assert all(file.read_text() == "mine" for file in mine)


def test_a_file_with_another_name_elsewhere_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("theirs\n")
    os.link(tmp_path / "other", tmp_path / "log")
    append_text(tmp_path / "log", "mine\n")
    append_text(tmp_path / "log", "more\n")
    assert (tmp_path / "other").read_text() == "theirs\n"
    assert (tmp_path / "log").read_text() == "theirs\nmine\nmore\n"
