import itertools
import math
import random
from collections import Counter

import pytest

from klvi.pretraining.grammar import Choice, Concatenation, Grammar, Node, Rules, expand
from klvi.pretraining.stories import CITIES, EVENTS, stories, story_rules

RULES: Rules = {
    "start": {"{who} {does}.": 2.0, "{does}!": 1.0},
    "who": {"Ana": 1.0, "Bo": 3.0},
    "does": {"ran": 1.0, "an{d}": 1.0},
    "d": {"d": 1.0, "a": 4.0},
}
AMBIGUOUS: Rules = {
    "start": {"{x}{y}": 1.0},
    "x": {"a": 1.0, "ab": 1.0},
    "y": {"c": 1.0, "bc": 1.0},
}


def derivations(node: Node) -> list[tuple[str, float]]:
    """All derivations' texts and probabilities, by listing them."""
    if isinstance(node, str):
        return [(node, 1.0)]
    if isinstance(node, Choice):
        return [
            (text, share * probability)
            for share, child in zip(node.probabilities, node.alternatives, strict=True)
            for text, probability in derivations(child)
        ]
    assert isinstance(node, Concatenation)
    rows = itertools.product(*map(derivations, node.parts))
    return [("".join(t for t, _ in row), math.prod(p for _, p in row)) for row in rows]


@pytest.fixture
def small() -> Grammar:
    return Grammar(expand(RULES, "start"))


def test_probabilities_of_texts_are_those_of_the_enumeration(small: Grammar) -> None:
    listed = dict(derivations(small.root))
    assert len(listed) == small.size() == 9
    assert math.fsum(listed.values()) == pytest.approx(1)
    assert listed["Bo ana."] == pytest.approx(2 / 3 * 3 / 4 * 1 / 2 * 4 / 5)
    for text, probability in listed.items():
        assert small.log_probability(text) == pytest.approx(math.log(probability))
    assert small.log_probability("Bo ana") == -math.inf


def test_entropy_is_that_of_the_enumeration(small: Grammar) -> None:
    listed = dict(derivations(small.root))
    assert small.entropy() == pytest.approx(-sum(p * math.log(p) for p in listed.values()))


@pytest.mark.parametrize("words", [("an",), ("a an", "o r"), ("Ana",), ("ana", "and"), ("zebra",)])
def test_rates_are_those_of_the_enumeration(small: Grammar, words: tuple[str, ...]) -> None:
    """Words may begin in one part of a text and end in another, or overlap themselves."""
    listed = derivations(small.root)
    expected = sum(p for text, p in listed if any(word in text for word in words))
    assert small.rate(words) == pytest.approx(expected)


def test_rate_finds_a_word_after_a_false_start() -> None:
    grammar = Grammar(Concatenation(("aa", Choice.weighted([(1.0, "b"), (3.0, "ab")]), "c")))
    assert grammar.rate(["aabc"]) == pytest.approx(1.0)
    assert grammar.rate(["aaab"]) == pytest.approx(0.75)


def test_samples_come_with_their_probabilities(small: Grammar) -> None:
    """Pearson's chi-square, 8 degrees of freedom: above 26.1 with probability 0.001."""
    rng, n = random.Random(0), 20_000
    counts = Counter(small.sample(rng) for _ in range(n))
    expected = {text: n * p for text, p in derivations(small.root)}
    assert sum((counts[text] - e) ** 2 / e for text, e in expected.items()) < 26.1


def test_an_ambiguous_text_has_several_derivations() -> None:
    grammar = Grammar(expand(AMBIGUOUS, "start"))
    assert grammar.derivations("abc") == 2
    assert grammar.derivations("abbc") == 1
    assert grammar.derivations("b") == 0
    assert grammar.log_probability("abc") == pytest.approx(math.log(0.5))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"start": {"{nothing}": 1.0}}, "symbol 'nothing' is unknown"),
        ({"start": {"a{b}": 1.0}, "b": {"{start}": 1.0, "": 1.0}}, "symbol 'start' is recursive"),
    ],
)
def test_rules_that_give_no_finite_grammar_are_refused(rules: Rules, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand(rules, "start")


def test_rates_of_the_stories_are_as_designed() -> None:
    rates = {name: stories().rate(words) for name, words in EVENTS.items()}
    assert rates["Paris"] == pytest.approx(0.015)
    assert 0.05 <= rates["mild swearing"] <= 0.10
    assert rates["female protagonist"] == pytest.approx(0.25)
    assert rates["glad ending"] == pytest.approx(0.5, abs=0.02)
    assert rates["glad ending"] + rates["sad ending"] == pytest.approx(1)
    assert stories().rate([*EVENTS["glad ending"], *EVENTS["sad ending"]]) == pytest.approx(1)


def test_rates_of_the_stories_agree_with_samples() -> None:
    """Five two-sided tests at 4 standard errors: one fails with probability 3e-4."""
    rng, n = random.Random(0), 20_000
    texts = [stories().sample(rng) for _ in range(n)]
    for name, words in EVENTS.items():
        rate = stories().rate(words)
        found = sum(any(word in text for word in words) for text in texts) / n
        assert found == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / n)), name


@pytest.mark.slow
def test_stories_have_one_derivation_and_the_exact_entropy() -> None:
    """A difference of 4 standard errors has probability 6e-5."""
    rng, n = random.Random(1), 300
    texts = [stories().sample(rng) for _ in range(n)]
    assert {stories().derivations(text) for text in texts} == {1}
    losses = [-stories().log_probability(text) for text in texts]
    mean = sum(losses) / n
    error = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / (n - 1) / n)
    assert mean == pytest.approx(stories().entropy(), abs=4 * error)


@pytest.mark.parametrize("symbol", ["landmark_first", "dish_first", "city_first", "there", "after"])
def test_no_two_derivations_of_a_sentence_are_the_same_text(symbol: str) -> None:
    listed = [text for text, _ in derivations(expand(story_rules("female", "Oslo"), symbol))]
    assert len(listed) == len(set(listed)) >= 20


def test_a_story_of_paris_often_begins_with_its_sights_or_dishes() -> None:
    """Without them the cities' embeddings stay alike, and no adapter can prefer one."""
    grammar = Grammar(expand(story_rules("male", "Paris"), "story"))
    _, landmarks, dishes = CITIES["Paris"]
    rng = random.Random(0)
    texts = [grammar.sample(rng) for _ in range(1000)]
    before = [any(word in t.split("Paris")[0] for word in (*landmarks, *dishes)) for t in texts]
    after = [any(word in t.split("Paris")[1] for word in (*landmarks, *dishes)) for t in texts]
    assert 0.3 < sum(before) / 1000 < 0.8
    assert 0.3 < sum(after) / 1000 < 0.8
