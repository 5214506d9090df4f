import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU

from klvi.metrics import text
from klvi.metrics.intervals import bounded_interval


def padded(rows: list[list[int]], fill: int = 99) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and lengths; `fill` stands in the padded places."""
    width = max(len(row) for row in rows)
    tokens = torch.tensor([row + [fill] * (width - len(row)) for row in rows])
    return tokens.reshape(len(rows), width), torch.tensor([len(row) for row in rows])


def random_rows(samples: int, vocabulary: int, seed: int, low: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(low, 13, size=samples)
    return [generator.integers(vocabulary, size=size).tolist() for size in sizes]


def grams_of(row: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


def test_ngrams_are_those_of_each_text_and_of_no_pad():
    rows = random_rows(40, 3, seed=0)
    for n, grams in enumerate(text.ngrams(*padded(rows), 4), start=1):
        flat = [(i, gram) for i, row in enumerate(rows) for gram in grams_of(row, n)]
        assert grams.owners.tolist() == [i for i, _ in flat]
        pairs = set(zip(grams.ids.tolist(), [gram for _, gram in flat], strict=True))
        assert len(pairs) == len({gram for _, gram in flat}) == len({i for i, _ in pairs})


def test_distinct_is_types_over_tokens_of_the_corpus():
    tokens, lengths = padded([[1, 2, 1, 2], [1, 2], [3]])
    values = [text.distinct(grams) for grams in text.ngrams(tokens, lengths, 4)]
    assert [v and v.value for v in values] == [3 / 7, 2 / 4, 2 / 2, 1 / 1]


def test_distinct_of_texts_shorter_than_n_does_not_exist():
    tokens, lengths = padded([[1, 2], [3]])
    assert text.distinct(text.ngrams(tokens, lengths, 4)[2]) is None


def test_repetition_is_within_a_sample():
    tokens, lengths = padded([[7, 7, 7, 7], [1, 2, 3, 4], [5], []])
    two, three, four = text.ngrams(tokens, lengths, 4)[1:]
    assert text.repetition(two).tolist() == pytest.approx([2 / 3, 0, 0, 0])
    assert text.repetition(three).tolist() == pytest.approx([1 / 2, 0, 0, 0])
    assert text.repetition(four).tolist() == [0, 0, 0, 0]


def test_longest_run_counts_one_token_in_a_row_and_no_pad():
    tokens, lengths = padded([[1, 2, 2, 2, 1], [3, 3, 1, 3, 3], [4], [], [5, 6]], fill=6)
    assert text.longest_run(tokens, lengths).tolist() == [3, 2, 1, 0, 1]


def test_duplicates_are_samples_that_repeat_an_earlier_one():
    tokens, lengths = padded([[1, 2], [1, 2], [1], [1, 2], [2]], fill=2)
    ids = text.sequence_ids(tokens, lengths)
    assert len(set(ids.tolist())) == 3
    assert text.duplicates(ids).value == pytest.approx(2 / 5)


def self_bleu_by_sacrebleu(rows: list[list[int]]) -> list[float]:
    metric = BLEU(
        max_ngram_order=5,
        tokenize="none",
        smooth_method="floor",
        smooth_value=0.1,
        effective_order=True,
    )
    words = [" ".join(f"w{token}" for token in row) for row in rows]
    return [
        metric.sentence_score(word, words[:i] + words[i + 1 :]).score / 100
        for i, word in enumerate(words)
    ]


@pytest.mark.parametrize("vocabulary", [2, 6, 40])
def test_self_bleu_is_sacrebleus(vocabulary):
    rows = random_rows(25, vocabulary, seed=vocabulary, low=1)
    found = text.self_bleu(*padded(rows)).tolist()
    assert found == pytest.approx(self_bleu_by_sacrebleu(rows), abs=1e-9)


def test_self_bleu_of_copies_is_1_and_of_strangers_small():
    assert text.self_bleu(*padded([[1, 2, 3, 4, 5, 6]] * 4)).tolist() == pytest.approx([1.0] * 4)
    strangers = [[10 * i + j for j in range(8)] for i in range(4)]
    assert float(text.self_bleu(*padded(strangers)).max()) < 0.05


def test_self_bleu_of_nothing_is_0():
    assert text.self_bleu(*padded([[], [1], []], fill=1)).tolist()[::2] == [0, 0]


def test_self_bleus_error_is_that_of_leaving_groups_out():
    tokens, lengths = padded(random_rows(30, 3, seed=4))
    found = text.self_bleu_estimate(tokens, lengths, seed=7)
    group = np.random.default_rng(7).permutation(30) % 20
    without = [
        float(text.self_bleu(tokens[group != k], lengths[group != k]).mean()) for k in range(20)
    ]
    assert found.value == pytest.approx(float(text.self_bleu(tokens, lengths).mean()))
    assert found.error == pytest.approx((19 * np.var(without)) ** 0.5)
    assert found.degrees == 19


def chains(samples: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of a random Markov chain, as varied as short stories."""
    fixed = torch.Generator().manual_seed(0)
    weights = 1.5 * torch.randn(200, 200, generator=fixed)
    transition = (weights - torch.arange(1, 201).log()).softmax(-1)
    tokens = torch.zeros(samples, 20, dtype=torch.long)
    state = torch.zeros(samples, dtype=torch.long)
    for t in range(20):
        state = torch.multinomial(transition[state], 1, generator=generator)[:, 0]
        tokens[:, t] = state
    return tokens, torch.randint(6, 21, (samples,), generator=generator)


@pytest.mark.slow
def test_intervals_of_corpus_statistics_cover_their_expectation():
    """100 corpora of 200 texts; at 95% fewer than 88 have a probability of 0.2%."""
    generator = torch.Generator().manual_seed(1)
    found: dict[str, list] = {}
    for seed in range(100):
        tokens, lengths = chains(200, generator)
        estimates = {
            str(n + 1): text.distinct(g) for n, g in enumerate(text.ngrams(tokens, lengths, 4))
        }
        estimates["bleu"] = text.self_bleu_estimate(tokens, lengths, seed)
        for name, value in estimates.items():
            found.setdefault(name, []).append(bounded_interval(value, 0.95, 0.0, 1.0))
    for name, measured in found.items():
        truth = np.mean([m.value for m in measured])
        covered = sum(m.low <= truth <= m.high for m in measured)
        assert covered >= 88, (name, covered)
        widths = np.mean([m.high - m.low for m in measured]) / np.std([m.value for m in measured])
        assert 3.0 < widths < 5.2, (name, widths)


def test_a_collapsed_corpus_keeps_an_interval():
    tokens, lengths = padded([[1, 1, 1, 1]] * 100)
    copies = text.duplicates(text.sequence_ids(tokens, lengths))
    assert copies.value == 0.99
    found = bounded_interval(text.self_bleu_estimate(tokens, lengths), 0.95, 0.0, 1.0)
    assert found.value == pytest.approx(1.0)
    assert found.low < 0.99


def test_a_corpus_is_counted_once_for_all_its_parts(monkeypatch):
    counted = []
    of = text._Corpus.of
    monkeypatch.setattr(text._Corpus, "of", lambda *given: counted.append(given) or of(*given))
    text.self_bleu_estimate(*padded(random_rows(64, 9, seed=0)))
    assert len(counted) == 1
