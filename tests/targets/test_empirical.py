"""The distribution of a file's texts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from support import LetterReward, made_samples

from klvi.errors import UserError
from klvi.targets.build import build_target
from klvi.targets.empirical import Empirical
from klvi.targets.schema import EmpiricalTarget

REWARD = LetterReward()
TEXTS = [f"text {number}" for number in range(400)]


def plain(folder: Path, texts: list[str]) -> str:
    file = folder / "texts.txt"
    file.write_text("\n".join(texts) + "\n")
    return str(file)


def texts_of(pairs) -> list[str]:
    return [text for _, text in pairs]


def test_a_line_is_a_text_and_a_share_of_them_is_held_out(tmp_path: Path) -> None:
    """To within 4 standard deviations of a binomial share."""
    target = Empirical(REWARD, plain(tmp_path, TEXTS), held_out=0.2)
    out, kept = texts_of(target.held_out_texts), texts_of(target.training_texts)
    assert sorted(out + kept) == sorted(TEXTS)
    assert len(out) == pytest.approx(80, abs=4 * math.sqrt(400 * 0.2 * 0.8))
    assert {context.prompt for context, _ in target.held_out_texts} == {""}
    wider = Empirical(REWARD, target.path, held_out=0.5)
    assert set(out) < set(texts_of(wider.held_out_texts))


def test_which_are_held_out_depends_on_each_text_alone(tmp_path: Path) -> None:
    whole = texts_of(Empirical(REWARD, plain(tmp_path, TEXTS)).held_out_texts)
    doubled = [*reversed(TEXTS[:300]), *TEXTS[:300]]
    part = texts_of(Empirical(REWARD, plain(tmp_path, doubled)).held_out_texts)
    assert part == [text for text in reversed(TEXTS[:300]) if text in whole]


def test_texts_may_complete_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i % 3}", "text": text, "rest": 1} for i, text in enumerate(TEXTS)]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(map(json.dumps, [*rows, {"text": "alone"}])))
    target = Empirical(REWARD, str(file))
    pairs = [*target.held_out_texts, *target.training_texts]
    found = {text: context.prompt for context, text in pairs}
    assert found == {row["text"]: row["prompt"] for row in rows} | {"alone": ""}
    assert len({(context.row, context.prompt) for context, _ in pairs}) == 4


def test_nothing_is_said_of_other_texts(tmp_path: Path) -> None:
    section = EmpiricalTarget(name="empirical", path=plain(tmp_path, TEXTS))
    target = build_target(section, REWARD, 0.2)
    assert "texts.txt alone" in (target.no_potential or "")
    with pytest.raises(UserError, match=r"^target=empirical: the target is known by .*choose an"):
        target.log_unnormalised(made_samples([1, 2]))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.txt", None, r"^target\.path=.*none\.txt: no such file$"),
        ("empty.txt", "\n", r"^target\.path=.*empty\.txt is empty"),
        ("a.jsonl", '{"prompt": "a"}\n', r"a\.jsonl:1: needs a text in the field 'text'.*prompt"),
        ("a.jsonl", '{"text": ""}\n', r"a\.jsonl:1: needs a text"),
        ("a.jsonl", '{"text": "a", "prompt": 3}\n', r"a\.jsonl:1: needs a text"),
        ("a.txt", "one\none\ntwo\n", r"^target\.held_out=0\.1: of the 2 different texts in .*more"),
    ],
)
def test_another_file_is_refused(name: str, content: str | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=said):
        Empirical(REWARD, str(file))
