"""What the command tells about itself, and how quickly."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable

import pytest

from klvi.cli import COMMANDS

Klvi = Callable[..., subprocess.CompletedProcess[str]]

LIMIT = 1.0


def fastest(klvi: Klvi, *arguments: str) -> float:
    """Processor seconds of the best of three: on an idle machine, what the user waits."""
    durations = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        klvi(*arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        durations.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(durations)


def test_help_lists_the_commands(klvi: Klvi) -> None:
    result = klvi("--help")
    assert (result.returncode, result.stderr) == (0, "")
    for command, does in COMMANDS.items():
        assert f"\n  {command:<12}{does}\n" in result.stdout
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
    assert "\n  experiment              enumerable, nonoffensive, paris  [null]\n" in text
    assert "p ∝ prior·exp(reward/beta)  [0.1]\n" in text


def test_help_comes_whatever_else_is_said(klvi: Klvi) -> None:
    assert klvi("train", "beat=1", "kl", "-h", "-m").stdout == klvi("train", "--help").stdout


def test_the_help_shows_the_users_own_choices(klvi: Klvi, tmp_path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nbeta: 1\n")
    text = klvi("train", "--help", "--config-dir", "own").stdout
    assert "enumerable, mine, nonoffensive, paris" in text


def test_version(klvi: Klvi) -> None:
    assert klvi("--version").stdout == klvi("train", "--version").stdout == "klvi 0.1.0\n"


def test_help_is_quick(klvi: Klvi) -> None:
    assert fastest(klvi, "--help") < LIMIT
    assert fastest(klvi, "train", "--help") < LIMIT


def test_an_error_is_quick(klvi: Klvi) -> None:
    assert fastest(klvi, "train", "beta=-1", "beat=1", "model=gtp2") < LIMIT
