"""Diversity is what a completion does not share with the others of its prompt."""

from __future__ import annotations

import pytest
from sacrebleu import sentence_bleu

from klvi.contexts import Context, contexts_of
from klvi.errors import UserError
from klvi.rewards.base import of_rollout
from klvi.rewards.contains import Contains
from klvi.rewards.diversity import Diversity
from klvi.rewards.scoring import score
from klvi.rewards.sum import Term, WeightedSum
from klvi.targets.constraint import Constraint
from klvi.targets.posterior import Posterior

ALIKE = "the cat sat on the mat"
TEXTS = [ALIKE, ALIKE, "a dog ran after a red ball", "nobody knew"]


def scores(texts: list[str], contexts: list[Context], others: int = 8) -> list[float]:
    return score(Diversity(others), texts, contexts, update=0).tolist()


def test_it_is_minus_the_bleu_against_the_others() -> None:
    found = scores(TEXTS, contexts_of([""] * 4))
    settings = {"smooth_method": "floor", "tokenize": "none", "use_effective_order": True}
    expected = [
        -sentence_bleu(text, TEXTS[:i] + TEXTS[i + 1 :], **settings).score / 100
        for i, text in enumerate(TEXTS)
    ]
    assert found == pytest.approx(expected)
    assert found[:2] == pytest.approx([-1, -1])
    assert -0.1 < found[2] <= 0


def test_only_completions_of_the_same_prompt_count() -> None:
    first, second = Context(0, "one"), Context(1, "one")
    assert scores([ALIKE, ALIKE], [first, second]) == [0, 0]
    assert scores([ALIKE, ALIKE, ALIKE], [first, second, first]) == pytest.approx([-1, 0, -1])
    assert scores([""], [first]) == [0]
    assert scores(["", "a", ""], contexts_of([""] * 3)) == [-1, 0, -1]


def test_each_is_compared_with_the_next_few() -> None:
    assert scores([ALIKE, "x y z", ALIKE], contexts_of([""] * 3), others=1) == pytest.approx(
        [0, 0, -1], abs=0.05
    )
    with pytest.raises(UserError, match="others=0"):
        Diversity(0)


def test_a_target_of_it_has_no_potential_to_speak_of() -> None:
    diverse = Diversity()
    inside = WeightedSum({"a": Term(1.0, Contains("a")), "b": Term(0.5, diverse)})
    outer = WeightedSum({"c": Term(1.0, inside)})
    for reward in (diverse, inside, outer):
        assert of_rollout(reward)
        for target in (Posterior(reward, 0.1), Constraint(reward)):
            why = target.no_potential
            assert why is not None
            assert "by the others of its rollout" in why
    assert Posterior(Contains("a"), 0.1).no_potential is None
