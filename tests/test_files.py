"""Files that are whole or not there, and paths that klvi keeps away from."""

from __future__ import annotations

import errno
import os
import re
import resource
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from klvi.errors import RunError
from klvi.files import (
    append_text,
    foreign_entry,
    naming,
    new_file_problem,
    new_folder_problem,
    read_text,
    remove_leftovers,
    room_problem,
    same_trouble,
    whole_folder,
    write_whole,
)
from klvi.runs.folder import holds_nothing


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


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond a kilobyte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("library", ["torch", "safetensors", "tokenizers"])
def test_what_the_disk_refuses_to_libraries_is_told_as_its_own(
    library: str, tmp_path: Path, small_files: None
) -> None:
    path, weights = tmp_path / "weights", {"weight": torch.zeros(50_000)}

    def write() -> None:
        if library == "torch":
            with path.open("wb") as file:
                torch.save(weights, file)
        elif library == "safetensors":
            save_file(weights, path)
        else:
            Tokenizer(WordLevel({str(n): n for n in range(500)}, unk_token="0")).save(str(path))

    with pytest.raises(RunError, match=r"step-3: File too large$") as raised, naming("step-3"):
        write()
    assert same_trouble(raised.value, OSError(errno.EFBIG, "too large", "elsewhere"))
    assert not same_trouble(raised.value, OSError(errno.EROFS, "read-only"))


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


def test_links_and_pipes_in_a_run_are_named(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "latest").symlink_to("run")
    (tmp_path / "config.yaml").touch()
    assert foreign_entry(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    os.mkfifo(tmp_path / "checkpoints" / "pipe")
    assert "checkpoints/pipe is a FIFO" in (foreign_entry(tmp_path) or "")


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


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "summary.json", "run.log"])
def test_a_folder_where_a_file_belongs_is_foreign(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert str(foreign_entry(tmp_path)).startswith(f"{name} is a folder, not a file")
