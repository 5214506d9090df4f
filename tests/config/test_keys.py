"""Keys and their descriptions are read from the schema."""

from __future__ import annotations

from typing import Any

import pytest

from klvi.config.keys import described, is_key, keys
from klvi.runs.schema import TrainConfig
from klvi.spelling import suggestion

RAW: dict[str, Any] = {
    "model": {"name": "gpt2"},
    "reward": {"name": "sum", "terms": {"mine": {"reward": {"name": "length"}}}},
    "objective": {"name": "gdc"},
    "proposal": {"name": "mixture"},
    "prompts": {"name": "file", "chat": {"enable_thinking": False}},
}


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("beta", True),
        ("optim", True),
        ("optim.lr", True),
        ("model.path", True),
        ("model.letters", False),
        ("proposal.prior_share", True),
        ("objective.clip", False),
        ("reward.terms.mine.weight", True),
        ("reward.terms.mine.reward.unit", True),
        ("reward.terms.mine.reward.text", False),
        ("beta.high", False),
        ("prompts.chat.enable_thinking", True),
        ("prompts.chat.enable_thinking.deep", False),
    ],
)
def test_keys_follow_the_choices(key: str, known: bool) -> None:
    assert (key in keys(TrainConfig, RAW)) is known
    assert is_key(TrainConfig, RAW, key) is known


def test_a_term_that_is_yet_to_come_is_a_key() -> None:
    assert is_key(TrainConfig, RAW, "reward.terms.other.reward.text")
    assert not is_key(TrainConfig, RAW, "reward.terms.other.wait")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("beta", "a number, greater than 0"),
        ("threads", "a whole number, at least 1 and at most 1,024 or null"),
        ("device", "one of auto, cpu, cuda, cuda:NUMBER, mps"),
        ("name", "the name of a folder under runs/"),
        ("lora.targets", "a list such as [a,b] or null"),
        (
            "evaluation.pass_k",
            "a list such as [1,4], each a whole number, at least 1 and at most 1,000,000 or null",
        ),
        ("model.trust_remote_code", "true or false"),
        ("evaluation.confidence", "a number, greater than 0 and less than 1"),
        ("reward", "a section"),
        ("prompts.chat.enable_thinking", "true or false or a whole number or a number or a text"),
    ],
)
def test_what_a_value_may_be(key: str, words: str) -> None:
    assert described(keys(TrainConfig, RAW)[key]) == words


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("lr", "optim.lr"),
        ("optm.lr", "optim.lr"),
        ("objectve", "objective"),
        ("evaluation.sample", "evaluation.samples"),
        ("max_new_token", "max_new_tokens"),
        ("zzz", None),
    ],
)
def test_the_near_spelling(wrong: str, near: str | None) -> None:
    found = suggestion(wrong, keys(TrainConfig, RAW))
    assert found == (f"; did you mean {near}?" if near else "")
