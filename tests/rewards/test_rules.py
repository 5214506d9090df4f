"""The rewards that are rules: contains, lexicon, length, letters."""

import random

import pytest

from klvi.contexts import contexts_of, unprompted
from klvi.errors import UserError
from klvi.pretraining import stories
from klvi.rewards import schema
from klvi.rewards.build import build_reward
from klvi.rewards.contains import Contains
from klvi.rewards.length import Length
from klvi.rewards.lexicon import Lexicon


def build(config):
    return build_reward(config, "cpu")


def test_contains_scores_the_completion_and_not_the_prompt():
    reward = build(schema.ContainsReward(name="contains", text="Paris"))
    assert reward(["To Paris!", "to paris", "Rome"], contexts_of(["", "", "Paris"])) == [
        1.0,
        0.0,
        0.0,
    ]


def test_contains_ignores_case_if_asked():
    assert Contains("STRASSE", case_sensitive=False)(["straße", "x"], unprompted(2)) == [1.0, 0.0]


def test_contains_counts_mentions_without_overlap_if_asked():
    texts = ["Paris, Paris!", "paris", "anana anana"]
    assert Contains("Paris", count=True)(texts, unprompted(3)) == [2.0, 0.0, 0.0]
    assert Contains("ana", case_sensitive=False, count=True)(texts, unprompted(3)) == [0, 0, 2]
    assert Contains("Paris").mentions(texts) == [2.0, 0.0, 0.0]


def test_lexicon_finds_whole_words_in_any_case():
    reward = build(schema.LexiconReward(name="lexicon", penalty=-2.5))
    texts = ["Damn it!", '"Hell," he said.', "Seashells are hellish", "what the_hell", "Nice."]
    assert reward(texts, unprompted(5)) == [-2.5, -2.5, 0.0, 0.0, 0.0]


def test_lexicon_takes_signs_literally():
    assert Lexicon(("c++", "a.b"))(["I like C++.", "axb"], unprompted(2)) == [-1.0, 0.0]


def test_lexicon_default_finds_exactly_the_mild_swearing_of_the_embedded_grammar():
    rng = random.Random(0)
    texts = [stories.stories().sample(rng) for _ in range(2000)]
    swears = [-1.0 if any(w in t for w in stories.EVENTS["mild swearing"]) else 0.0 for t in texts]
    assert Lexicon()(texts, [""] * len(texts)) == swears
    assert sum(swears) < 0


def test_lexicon_reads_a_file(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("alas\n\n  woe \n")
    reward = build(schema.LexiconReward(name="lexicon", path=str(file)))
    assert reward(["Alas!", "woe is me", "damn", "gone"], unprompted(4)) == [-1.0, -1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"path": "nowhere.txt"}, "reward.path=nowhere.txt: no such file"),
        ({"words": []}, "reward.words lists no word"),
        ({"words": ["a"], "path": "b"}, "exclude each other"),
    ],
)
def test_lexicon_refuses(config, message):
    with pytest.raises(UserError, match=message):
        build(schema.LexiconReward(name="lexicon", **config))


def test_length_in_words_and_characters():
    words = build(schema.LengthReward(name="length", target=2, scale=4.0))
    assert words(["one two", "one  two\nthree", ""], unprompted(3)) == [0.0, -0.25, -0.5]
    assert Length(3, 1.0, "characters")(["abc", "abcde"], unprompted(2)) == [0.0, -2.0]


def test_letters_weigh_places_in_alphabet_and_text():
    letters = build(schema.LettersReward(name="letters"))
    texts = ["", "a", "E", "a b c", "c b a", "zebra ? ant"]
    expected = [0, 1 / 2, 5 / 2, 1 / 2 + 2 / 3 + 3 / 4, 3 / 2 + 2 / 3 + 1 / 4, 26 / 2 + 1 / 4]
    assert letters(texts, unprompted(6)) == pytest.approx([value / 8 for value in expected])
