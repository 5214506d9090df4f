"""The commit of klvi's own checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import klvi
from klvi.runs.source import checkout


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that passes for klvi's."""
    (tmp_path / "klvi").mkdir()
    file = tmp_path / "klvi" / "__init__.py"
    file.write_text("")
    monkeypatch.setattr(klvi, "__file__", str(file))
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@e"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_checkout_has_a_commit_and_may_be_dirty(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(package, "init", "-q")
    git(package, "add", "-A")
    git(package, "commit", "-qm", "first")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook of another repository
    found = checkout()
    monkeypatch.delenv("GIT_DIR")
    assert found == {"commit": git(package, "rev-parse", "HEAD"), "dirty": False}
    (package / "klvi" / "__init__.py").write_text("changed = True")
    assert checkout() == found | {"dirty": True}


def test_an_installed_package_has_none(package: Path) -> None:
    assert checkout() is None


@pytest.mark.parametrize("empty", [True, False])
def test_a_broken_repository_has_none(package: Path, *, empty: bool) -> None:
    (package / ".git").mkdir()
    if not empty:
        (package / ".git" / "HEAD").write_text("ref: refs/heads/none\n")
    assert checkout() is None


def test_without_git_there_is_none(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(package, "init", "-q")
    monkeypatch.setenv("PATH", "/nowhere")
    assert checkout() is None
