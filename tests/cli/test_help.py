"""What the command tells about itself, without what is slow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import Klvi, train_config

from klvi.cli import COMMANDS
from klvi.runs.stored import write_config

SLOW = {"torch", "transformers", "trl", "peft", "rich", "pandas"}


def imported(*arguments: str) -> set[str]:
    """The slow libraries that the command imports in a process of its own."""
    code = (
        "import atexit, sys; from klvi.cli import main; "
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main(sys.argv[1:])"
    )
    process = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(process, capture_output=True, text=True)
    assert "klvi.cli" in result.stderr.split()
    return SLOW & set(result.stderr.split())


def test_help_lists_the_commands(klvi: Klvi) -> None:
    result = klvi("--help")
    assert (result.returncode, result.stderr) == (0, "")
    for command, does in COMMANDS.items():
        assert f"\n  {command:<13}{does}\n" in result.stdout
    assert "\n  klvi train objective=kl beta=0.1\n" in result.stdout
    assert klvi().stdout == klvi("-h").stdout == result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(command: str, klvi: Klvi) -> None:
    result = klvi(command, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"klvi {command}: ")
    assert "\nExamples\n" in result.stdout
    assert "$" not in result.stdout


def test_the_help_of_train_tells_groups_choices_and_keys(klvi: Klvi) -> None:
    text = klvi("train", "--help").stdout
    assert "\n  objective               gdc, kl, rl  [kl]\n" in text
    assert "\n  experiment              enumerable, nonoffensive, paris, women  [null]\n" in text
    assert "p ∝ prior·exp(reward/beta)  [0.1]\n" in text


def test_help_comes_whatever_else_is_said(klvi: Klvi) -> None:
    shown = klvi("train", "beat=1", "kl", "-h", "-m")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("klvi train: ")


def test_the_help_shows_the_users_own_choices(klvi: Klvi, tmp_path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nbeta: 1\n")
    text = klvi("train", "--help", "--config-dir", "own").stdout
    assert "enumerable, mine, nonoffensive, paris" in text


def test_version(klvi: Klvi) -> None:
    assert klvi("--version").stdout == klvi("train", "--version").stdout == "klvi 0.1.0\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["train", "beta=-1", "beat=1", "model=gtp2"]]
)
def test_help_and_errors_import_nothing_slow(arguments: list[str]) -> None:
    assert imported(*arguments) == set()


@pytest.mark.parametrize("arguments", [["runs"], ["runs", "--json"], ["runs", "beta=0.1"]])
def test_runs_are_listed_without_torch(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "kl" / "one"
    folder.mkdir(parents=True)
    write_config(train_config().model_dump(mode="json"), folder)
    monkeypatch.chdir(tmp_path)
    assert imported(*arguments) <= {"rich"}
