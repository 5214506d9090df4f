"""Rewards of texts of a few letters, from the smooth to the chaotic, for `reward=python`.

    klvi train -m experiment=enumerable objective=kl,gdc beta=0.1,0.3 reward=python \
        reward.function=scripts/letter_rewards.py:distinct,scripts/letter_rewards.py:chaos \
        hydra.sweep.dir=DIR
    python scripts/enumerable_seeds.py DIR

Each gives a score from 0 to 1.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

MAX_LENGTH, LETTERS = 5, 5


def distinct(texts: Sequence[str], prompts: Sequence[str]) -> list[float]:
    """How many letters of the alphabet occur: depends on the whole sequence."""
    return [len(set(text.split())) / LETTERS for text in texts]


def share_of_b(texts: Sequence[str], prompts: Sequence[str]) -> list[float]:
    """The share of the words that are b: one token is worth preferring throughout."""
    words = [text.split() for text in texts]
    return [part.count("b") / max(len(part), 1) for part in words]


def length(texts: Sequence[str], prompts: Sequence[str]) -> list[float]:
    """The number of words: depends on the end of sequence alone."""
    return [len(text.split()) / MAX_LENGTH for text in texts]


def alternation(texts: Sequence[str], prompts: Sequence[str]) -> list[float]:
    """How many neighbours differ: depends on pairs."""
    words = [text.split() for text in texts]
    pairs = [sum(a != b for a, b in itertools.pairwise(part)) for part in words]
    return [pair / (MAX_LENGTH - 1) for pair in pairs]


def palindrome(texts: Sequence[str], prompts: Sequence[str]) -> list[float]:
    """1 for a palindrome of two words or more, else the share of places that mirror."""
    words = [text.split() for text in texts]
    return [
        sum(a == b for a, b in zip(part, reversed(part), strict=True)) / len(part)
        if len(part) > 1
        else 0.0
        for part in words
    ]


def chaos(texts: Sequence[str], prompts: Sequence[str]) -> list[float]:
    """A number that no neighbouring text shares: the hardest for a network to follow."""
    return _hashes("", texts)


def chaos_a(texts: Sequence[str], prompts: Sequence[str]) -> list[float]:
    """Another such number."""
    return _hashes("a", texts)


def chaos_b(texts: Sequence[str], prompts: Sequence[str]) -> list[float]:
    """Another."""
    return _hashes("b", texts)


def chaos_c(texts: Sequence[str], prompts: Sequence[str]) -> list[float]:
    """And another."""
    return _hashes("c", texts)


def panel(texts: Sequence[str], prompts: Sequence[str]) -> dict[str, list[float]]:
    """Three members that disagree, and their mean."""
    members = {each.__name__: each(texts, prompts) for each in (distinct, alternation, chaos)}
    mean = [sum(scores) / len(scores) for scores in zip(*members.values(), strict=True)]
    return {"reward": mean, **members}


def _hashes(salt: str, texts: Sequence[str]) -> list[float]:
    words = (salt + " ".join(text.split()) for text in texts)
    digests = (hashlib.sha256(word.encode()).digest() for word in words)
    return [int.from_bytes(digest[:4], "big") / 2**32 for digest in digests]
