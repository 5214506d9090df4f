"""`klvi reward`: an ensemble of reward models, from pairs to a folder that `reward=model` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import command
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from klvi.commands import reward as reward_command
from klvi.runs.listing import listed_runs
from klvi.training.preferences import Pair

SMALL = ("model=enumerable", "model.letters=3", "model.length=4", "device=cpu", "threads=1")
QUICK = ("ensemble=2", "epochs=1", "lora.r=2", "held_out=0.25")


def write_pairs(folder: Path, count: int = 40) -> None:
    words = ("reward=letters", f"n={count}", "temperature=0.1", "out=pairs.jsonl")
    made = command(folder, "preferences", *SMALL, "max_new_tokens=4", *words)
    assert made.returncode == 0, made.stderr


@pytest.mark.slow
def test_pairs_become_classifiers_that_a_run_aims_at(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    told = command(tmp_path, "reward", *SMALL, *QUICK, "data=pairs.jsonl", "out=rm")
    assert told.returncode == 0, told.stderr
    assert "30 pairs, 1 steps of 32 with LoRA r=2, lr=0.002; 10 pairs are held out" in told.stdout
    assert "the scores themselves" in told.stdout
    assert "rm: use it as reward=model reward.path=rm" in told.stdout
    names = {path.name for path in (tmp_path / "rm").iterdir()}
    assert names == {"0", "1", "reward.json", "calibration.png"}
    for name in ("0", "1"):
        AutoTokenizer.from_pretrained(tmp_path / "rm" / name)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm" / name)
        assert model.config.num_labels == 1
    assert list(listed_runs(tmp_path)) == []
    summary = json.loads((tmp_path / "rm" / "reward.json").read_text())
    assert summary["pairs"] == {"train": 30, "held_out": 10}
    assert summary["members"].keys() == {"0", "1"}
    assert summary["ensemble"]["accuracy"]["n"] == 10
    assert summary["members"]["0"]["loss"] != summary["members"]["1"]["loss"]
    shown = command(tmp_path, "sample", *SMALL, "max_new_tokens=4", "reward=model",
                    "reward.path=rm", "n=4", "out=texts.jsonl")  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    rows = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    assert len({row["reward"] for row in rows}) == len({row["text"] for row in rows})


@pytest.mark.slow
def test_an_ensemble_recovers_the_order_of_its_reward(tmp_path: Path) -> None:
    """Within 2 points of what the reward itself predicts of the same 300 noisy labels."""
    write_pairs(tmp_path, 1500)
    words = ("ensemble=2", "bootstrap=true", "data=pairs.jsonl", "out=rm")
    told = command(tmp_path, "reward", *SMALL, *words)
    assert told.returncode == 0, told.stderr
    assert " of 300 held-out pairs are trained on, too" in told.stdout
    summary = json.loads((tmp_path / "rm" / "reward.json").read_text())
    found, best = (summary[name]["accuracy"]["value"] for name in ("ensemble", "scores"))
    assert 0.7 < best < 0.95
    assert found > best - 0.02
    assert summary["ensemble"]["order"]["value"] > 0.93


def test_held_out_pairs_that_are_trained_on_are_counted() -> None:
    train = [Pair("", "a", "b"), Pair("x", "a", "c")]
    held_out = [Pair("", "b", "a"), Pair("", "a", "c"), Pair("x", "a", "c"), Pair("x", "a", "b")]
    assert reward_command.repeated(train, held_out) == 2


def test_a_training_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pairs(tmp_path, 20)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reward_command, "trained_member", fail)
    told = command(tmp_path, "reward", *SMALL, *QUICK, "data=pairs.jsonl", "out=rm")
    assert told.returncode == 1
    assert "No space left on device" in told.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


PAIR = '{"chosen": "a", "rejected": "b"}\n'


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("out=rm",), "data: is missing; give a file of pairs, as in data=FILE.jsonl"),
        (("data=few",), "out: is missing; give the folder to write, as in out=DIR"),
        (("data=none", "out=rm"), "data=none: no such file"),
        (("data=few", "out=full"), "out=full: exists and is not empty; choose a new folder"),
        (
            ("data=few", "out=rm"),
            "data=few: has 3 pairs, some of which are held out; give at least 20",
        ),
        (
            ("data=broken", "out=rm"),
            "data=broken:2: the pair has no rejected; add it, or leave the pair out",
        ),
        (("data=few", "out=rm", "ensemble=0"), "ensemble=0: must be a whole number, at least 1 "
            "and at most 100"),
        (("data=few", "out=rm", "held_out=1"), "held_out=1: must be a number, greater than 0 and "
            "less than 1"),
        (("data=few", "out=rm", "reward=length"), "reward=length: klvi reward has no reward"),
        (
            ("data=words", "out=rm", "model=enumerable"),
            "data: the model's tokenizer cannot read the pairs (Exception: WordLevel error: "
            "Missing [UNK] token from the vocabulary); give pairs of this model's completions, or "
            "take another model",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_and_nothing_written(
    tmp_path: Path, words: tuple[str, ...], line: str
) -> None:
    (tmp_path / "few").write_text(PAIR * 3)
    (tmp_path / "broken").write_text(PAIR + '{"chosen": "a"}\n')
    (tmp_path / "words").write_text(PAIR.replace("a", "hello") * 30)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    before = sorted(path.name for path in tmp_path.iterdir())
    result = command(tmp_path, "reward", *words)
    assert (result.returncode, result.stderr) == (2, f"klvi: error: {line}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
