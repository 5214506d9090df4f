"""What lies at a path, and what the disk refuses."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from klvi.errors import RunError
from klvi.files import foreign_entry, naming, same_trouble


@contextmanager
def small_files() -> Iterator[None]:
    """Within, no file may grow beyond a kilobyte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("library", ["torch", "safetensors", "tokenizers"])
def test_what_the_disk_refuses_to_libraries_is_told_as_its_own(
    library: str, tmp_path: Path
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

    told = pytest.raises(RunError, match=r"step-3: File too large$")
    with told as raised, naming("step-3"), small_files():
        write()
    assert same_trouble(raised.value, OSError(errno.EFBIG, "too large", "elsewhere"))
    assert not same_trouble(raised.value, OSError(errno.EROFS, "read-only"))


def test_links_and_pipes_in_a_run_are_named(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "latest").symlink_to("run")
    (tmp_path / "config.yaml").touch()
    assert foreign_entry(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    os.mkfifo(tmp_path / "checkpoints" / "pipe")
    assert "checkpoints/pipe is a FIFO" in (foreign_entry(tmp_path) or "")


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "summary.json", "run.log"])
def test_a_folder_where_a_file_belongs_is_foreign(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert str(foreign_entry(tmp_path)).startswith(f"{name} is a folder, not a file")
