"""Pairs, the noise of their labels, and their file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from klvi.errors import UserError
from klvi.training.preferences import Pair, bayes_rate, margins_of, preferred, read_pairs


def test_labels_are_bradley_terry_with_a_temperature() -> None:
    margins = torch.tensor([0.0, 1.0, -2.0])
    expected = [0.5, 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(4))]
    assert preferred(margins, 0.5).tolist() == pytest.approx(expected)
    assert preferred(margins, 0).tolist() == [0.5, 1.0, 0.0]


def test_no_predictor_of_labels_beats_the_bayes_rate() -> None:
    margins = torch.tensor([1.0, -1.0, 0.0, 3.0])
    chance = preferred(margins, 1.0)
    best = torch.where(margins > 0, chance, 1 - chance).mean()
    assert bayes_rate(margins, 1.0) == pytest.approx(float(best))
    assert bayes_rate(margins, 0) == 7 / 8


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    pairs = [Pair("In\u2028Rome", " a\n", " ä", (1.5, -1.0)), Pair("", "x", "y", (0.0, 0.0))]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(f"{pair.to_json()}\n" for pair in pairs), encoding="utf-8")
    assert read_pairs(str(file)) == pairs
    margins = margins_of(pairs)
    assert margins is not None
    assert margins.tolist() == [2.5, 0.0]


def test_a_file_from_elsewhere_needs_no_prompt_and_may_have_more(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"chosen": "a", "rejected": "b", "margin": 2}, {"chosen": "b", "rejected": "a"}]
    file.write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)))
    assert read_pairs(str(file)) == [Pair("", "a", "b"), Pair("", "b", "a")]
    assert margins_of(read_pairs(str(file))) is None


GOOD = '{"chosen": "a", "rejected": "b"}\n'


def scored(score: str) -> str:
    return f'{{"chosen": "a", "rejected": "b", "score_chosen": {score}, "score_rejected": 0}}'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", " is empty; give a JSON object with chosen and rejected a line"),
        ("\n\n", " is empty; give a JSON object with chosen and rejected a line"),
        (GOOD + '{"chosen": "a"}', "2: the pair has no rejected; add it, or leave the pair out"),
        ('\n{"rejected": "a"}', "2: the pair has no chosen; add it, or leave the pair out"),
        ('{"prompt": null, "chosen": "a", "rejected": "b"}', "1: the pair has no prompt"),
        (GOOD + "a,b", "2: not JSON (Expecting value); write an object with prompt"),
        ("[1]", "1: not a JSON object with prompt, chosen and rejected"),
        ('{"chosen": "a", "rejected": "a"}', "1: chosen and rejected are the same text"),
        (
            '{"chosen": [{"role": "user", "content": "a"}], "rejected": "b"}',
            "1: chosen is a list of messages, not a text; lay conversations out as text",
        ),
        (scored("NaN"), "1: score_chosen is NaN, not a finite number; leave it out"),
        (scored("-Infinity"), "1: score_chosen is -Infinity, not a finite number"),
        (scored("1" + 400 * "0"), "1: score_chosen is 1000"),
        (scored('"1"'), '1: score_chosen is "1", not a finite number; leave it out'),
    ],
)
def test_what_is_no_pair_is_told_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        read_pairs(str(file))
    assert str(refused.value).startswith(f"data={file}:{line}")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    binary = tmp_path / "pairs.bin"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, reason in (
        (tmp_path / "none", "no such file"),
        (tmp_path, "is a folder, not a file"),
        (binary, "is not UTF-8 text (byte 0); give JSON lines"),
    ):
        with pytest.raises(UserError) as refused:
            read_pairs(str(path))
        assert str(refused.value) == f"data={path}: {reason}"
