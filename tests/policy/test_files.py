"""Files that are pointers or cut off are found before anything reads them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from klvi.policy.files import file_problems

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"


def whole(folder: Path) -> Path:
    save_file({"a": torch.zeros(10), "b": torch.ones(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder / "model.safetensors"


def test_whole_files_are_no_problem(tmp_path: Path) -> None:
    whole(tmp_path)
    save_file({}, tmp_path / "none.safetensors")
    assert file_problems(tmp_path) == []


@pytest.mark.parametrize("kept", [0, 4, 8, 40, -1])
def test_a_file_that_is_cut_off_is_found(kept: int, tmp_path: Path) -> None:
    file = whole(tmp_path)
    file.write_bytes(file.read_bytes()[:kept])
    (problem,) = file_problems(tmp_path)
    assert problem.startswith("model.safetensors ")
    assert "download it again" in problem


@pytest.mark.parametrize(
    "header", [b"[]", b"{", b"null", b'{"a": 1}', b'{"a": {"data_offsets": "x"}}']
)
def test_a_header_that_is_none_is_found(header: bytes, tmp_path: Path) -> None:
    file = whole(tmp_path)
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    (problem,) = file_problems(tmp_path)
    assert problem.startswith("model.safetensors ")


@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "pytorch_model.bin", "tokenizer.json", "vocab.txt"]
)
def test_pointers_of_git_lfs_are_found(name: str, tmp_path: Path) -> None:
    whole(tmp_path)
    (tmp_path / name).write_bytes(POINTER)
    (problem,) = file_problems(tmp_path)
    assert problem.startswith(f"{name} ")
    assert "git lfs pull" in problem


def test_metadata_is_no_tensor(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert file_problems(tmp_path) == []


def test_a_fifo_is_found_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    (problem,) = file_problems(tmp_path)
    assert problem.startswith("config.json is no file")
