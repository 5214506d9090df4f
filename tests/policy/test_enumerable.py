"""The enumerable prior and its prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import prompted

from klvi.errors import UserError
from klvi.policy.enumerable import enumerable_lm
from klvi.runs.assembly import assemble_evaluator


@pytest.mark.parametrize(("text", "letters"), [("a ", 1), ("a  b", 2), (" ", 0)])
def test_spaces_between_letters_do_not_count(tmp_path: Path, text: str, letters: int) -> None:
    file = tmp_path / "words.jsonl"
    file.write_text(json.dumps({"prompt": text}))
    evaluator = assemble_evaluator(prompted(file), adapted=True)
    _, lengths = evaluator.policy.prior.encode(evaluator.contexts.contexts)
    assert lengths.tolist() == [1 + letters]


def test_letters_alone_are_prompts_of_the_enumerable_prior(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("a b\nhello\n")
    with pytest.raises(UserError, match=r"prompt 1 \('hello'\).*model.letters"):
        assemble_evaluator(prompted(file), adapted=True)


def test_more_positions_leave_the_enumerable_prior_as_it_was() -> None:
    weights = enumerable_lm(5, 5, 0)[0].transformer.wpe.weight
    assert weights.shape[0] == 128
    assert float(weights[:10].double().sum()) == pytest.approx(5.513911581772845, abs=1e-9)
