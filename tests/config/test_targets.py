"""Which targets go with which rewards and objectives, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Problems = Callable[..., list[str]]

HARD = "+target.terms.hard={target: {name: constraint}}"
SHORT = "+reward.terms.short={reward: {name: length}}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["target=ensemble", "reward=sum", "target.pessimism=0", "target.spread=min"],
        ["target=preference", "reward=sum", "objective=gdc"],
        ["target=anchored", "target.threshold=2"],
        ["target=power", "target.alpha=0.5"],
        ["target=model", "target.path=somebody/model", "target.dtype=bfloat16"],
        ["target=continuation", "objective=gdc", "target.text=null"],
        ["target=product"],
        ["target=product", "objective=gdc", HARD],
        ["target=product", "~target.terms.polite", "+target.terms.a={target: {name: power}}"],
    ],
    ids=" ".join,
)
def test_what_makes_sense_runs(arguments: list[str], problems: Problems) -> None:
    assert problems("train", *arguments) == []


@pytest.mark.parametrize("target", ["ensemble", "preference"])
@pytest.mark.parametrize(
    "reward",
    [
        ["reward=contains"],
        ["reward=sum", "~reward.terms.paris"],
        ["reward=sum", "~reward.terms.paris", "~reward.terms.polite", SHORT],
    ],
    ids=len,
)
def test_an_ensemble_of_one_is_refused(target: str, reward: list[str], problems: Problems) -> None:
    (line,) = problems("train", f"target={target}", *reward)
    assert line.startswith(f"target={target} with {reward[0]}: an ensemble of one")
    assert (
        "use reward=sum of several terms, reward=model of several models, or reward=python" in line
    )


def test_a_users_function_may_give_several_scores(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def score(texts):\n    return {}\n")
    function = ["reward=python", "reward.function=score.py:score"]
    assert problems("train", "target=ensemble", *function) == []
    inside = "+reward.terms.mine={reward: {name: python, function: score.py:score}}"
    single = ["reward=sum", "~reward.terms.paris", "~reward.terms.polite", inside]
    assert problems("train", "target=ensemble", *single) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["target=continuation"],
            "objective=kl with target=continuation: reverse KL to a hard constraint is infinite",
        ),
        (
            ["target=product", HARD],
            "objective=kl with target=product: reverse KL to a hard constraint is infinite",
        ),
        (
            ["target=power", "target.alpha=1"],
            "target.alpha=1: must be a number, greater than 0 and",
        ),
        (
            ["target=power", "target.alpha=0"],
            "target.alpha=0: must be a number, greater than 0 and",
        ),
        (["target=model"], "target.path: is missing; give a causal LM with the prior's tokenizer"),
        (["target=model", "target.path=./none"], "target.path=./none: no such folder"),
        (["target=empirical", "objective=gdc"], "target.path: is missing; give a text per line"),
        (
            ["target=product", "+target.terms.all={target: {name: product, terms: {}}}"],
            "target.terms.all.target: terms: has no term",
        ),
        (
            ["target=product", "+target.terms.mine={target: {name: empirical, path: /etc/hosts}}"],
            "target: terms.mine: target=empirical has no potential that could be added; take it",
        ),
        (
            [
                "target=product",
                "+target.terms.a={target: {name: ensemble}, reward: {name: letters}}",
            ],
            "target: terms.a: an ensemble of one",
        ),
        (
            ["target=product", "+target.terms.a={target: {name: power, alpha: 1}}"],
            "target.terms.a.target.alpha=1: must be a number, greater than 0 and not 1",
        ),
        (
            ["target=product", "+target.terms.a={target: {name: model, path: ./none}}"],
            "target.terms.a.target.path=./none: no such folder",
        ),
        (["target.pessimism=1"], "target.pessimism: not a key of target=posterior, but of"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_what_does_not_is_told_in_a_line(
    arguments: list[str], line: str, problems: Problems
) -> None:
    found = problems("train", *arguments)
    assert any(problem.startswith(line) for problem in found), found


@pytest.mark.parametrize("objective", ["rl", "kl", "gdc"])
def test_an_objective_that_needs_log_p_has_no_use_for_texts(
    objective: str, problems: Problems, tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("a\nb\n")
    texts = ["target=empirical", "target.path=texts.txt"]
    (line,) = problems("train", f"objective={objective}", *texts)
    assert line.startswith(f"objective={objective} with target=empirical: the target is known by")
    assert "klvi eval measures" in line
    assert problems("eval", *texts) == []
