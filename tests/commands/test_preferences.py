"""`klvi preferences`: pairs of a prior's completions, with labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import command

from klvi.commands import preferences

SMALL = ("model=enumerable", "model.letters=3", "model.length=4", "max_new_tokens=4", "device=cpu")


def pairs(folder: Path, *words: str, name: str = "pairs.jsonl") -> list[dict[str, Any]]:
    result = command(folder, "preferences", *SMALL, "reward=letters", f"out={name}", *words)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.mark.slow
def test_pairs_are_labelled_by_the_reward_with_noise(tmp_path: Path) -> None:
    rows = pairs(tmp_path, "n=64", "temperature=0.3")
    assert len(rows) == 64
    assert list(rows[0]) == ["prompt", "chosen", "rejected", "score_chosen", "score_rejected"]
    assert all(row["chosen"] != row["rejected"] for row in rows)
    larger = sum(row["score_chosen"] > row["score_rejected"] for row in rows)
    assert 32 < larger < 64
    assert pairs(tmp_path, "n=16", "temperature=0.3", name="fewer.jsonl") == rows[:16]
    other = pairs(tmp_path, "n=64", "temperature=0.3", "seed=1", name="other.jsonl")
    assert other != rows


def test_without_noise_the_larger_reward_is_chosen(tmp_path: Path) -> None:
    rows = pairs(tmp_path, "n=64", "temperature=0")
    assert all(row["score_chosen"] >= row["score_rejected"] for row in rows)
    noisy = pairs(tmp_path, "n=64", "temperature=9", name="noisy.jsonl")
    for row, other in zip(rows, noisy, strict=True):
        assert {row["chosen"], row["rejected"]} == {other["chosen"], other["rejected"]}


def test_both_completions_are_of_one_prompt(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a b\nc\n")
    rows = pairs(tmp_path, "n=6", "prompts=file", "prompts.path=prompts.txt")
    assert [row["prompt"] for row in rows] == ["a b", "c"] * 3
    assert all(row["chosen"].startswith(" ") or not row["chosen"] for row in rows)


def test_it_tells_how_far_the_labels_follow_the_reward(tmp_path: Path) -> None:
    words = ("n=20", "temperature=0", "out=pairs.jsonl")
    result = command(tmp_path, "preferences", *SMALL, "reward=letters", *words)
    assert "20 pairs of prior enumerable in pairs.jsonl" in result.stdout
    assert "Bayes rate of the labels at temperature 0: 100.0%" in result.stdout
    assert "pairs of equal completions were drawn again" in result.stdout
    never = ("reward.text='c c c c'", "n=4", "out=ties.jsonl")
    result = command(tmp_path, "preferences", *SMALL, *never)
    assert "the reward tells no pair apart: all labels are a coin's" in result.stdout


def test_completions_that_never_differ_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preferences, "MAX_DRAWS", 1)
    words = ("reward=letters", "n=50", "max_new_tokens=1", "out=pairs.jsonl")
    result = command(tmp_path, "preferences", *SMALL, *words)
    assert (result.returncode, result.stderr) == (
        2,
        "klvi: error: prompt 0 (''): in 1 draws both completions were the same text; raise "
        "max_new_tokens, or take a prior or prompts with more to say\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "out: is missing; give the file to write, as in out=FILE.jsonl"),
        (("out=pairs.jsonl", "n=0"), "n=0: must be a whole number, at least 1"),
        (("out=pairs.jsonl", "temperature=-1"), "temperature=-1: must be a number, at least 0"),
        (("out=there",), "out=there: exists; give another name, or overwrite=true"),
        (("out=pairs.jsonl", "objective=kl"), "objective=kl: klvi preferences has no objective"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_written(
    tmp_path: Path, words: tuple[str, ...], line: str
) -> None:
    (tmp_path / "there").write_text("mine")
    result = command(tmp_path, "preferences", *words)
    assert (result.returncode, result.stderr) == (2, f"klvi: error: {line}\n")
    assert [file.name for file in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "mine"
