import itertools
import math

import pytest
import torch

from klvi.errors import UserError
from klvi.metrics import text
from klvi.metrics.enumeration import Enumeration, enumerate_sequences
from klvi.metrics.exact import exact_metrics
from klvi.metrics.measurement import Unavailable

BETA = 0.4


def test_every_sequence_is_listed_once_and_ends_or_is_full():
    found = enumerate_sequences([7, 8, 9], end=5, length=4)
    assert len(found) == 1 + 3 + 9 + 27 + 81
    rows = [tuple(row[:n]) for row, n in zip(found.tokens.tolist(), found.lengths, strict=True)]
    words = [list(itertools.product([7, 8, 9], repeat=k)) for k in range(5)]
    expected = {(*word, 5) for k in range(4) for word in words[k]} | set(words[4])
    assert len(set(rows)) == len(rows)
    assert set(rows) == expected
    assert found.ended.tolist() == [row[-1] == 5 for row in rows]


def test_a_space_too_large_is_refused_with_its_size():
    with pytest.raises(UserError, match=r"26 letters and length 8 make 217,180,147,159 sequences"):
        enumerate_sequences(range(26), end=26, length=8)
    with pytest.raises(UserError, match="more than the 39 that exact evaluation lists"):
        enumerate_sequences(range(3), end=3, length=3, limit=39)
    assert len(enumerate_sequences(range(3), end=3, length=3, limit=40)) == 40


@pytest.fixture
def space() -> Enumeration:
    return enumerate_sequences([0, 1], end=2, length=3)


def normalised(space: Enumeration, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(space), generator=generator).double().log_softmax(0)


def measured(space: Enumeration, n: int = 2, n_prior: int = 3, constraint: bool = False):
    log_policy, log_prior = normalised(space, 0), normalised(space, 1)
    reward = (space.tokens[:, 0] == 1).double()
    potential = reward.log() if constraint else reward / BETA
    found = exact_metrics(
        space,
        log_policy,
        log_prior,
        log_prior + potential,
        {"reward": reward},
        beta=BETA,
        n=n,
        n_prior=n_prior,
    )
    return found, log_policy.exp().tolist(), log_prior.exp().tolist(), reward.tolist()


def test_exact_values_are_sums_over_sequences(space):
    found, policy, prior, reward = measured(space)
    z = sum(q * math.exp(r / BETA) for q, r in zip(prior, reward, strict=True))
    target = [q * math.exp(r / BETA) / z for q, r in zip(prior, reward, strict=True)]
    rows = list(zip(policy, prior, target, reward, space.lengths.tolist(), strict=True))
    length = sum(p * n for p, *_, n in rows)
    reverse = sum(p * math.log(p / t) for p, _, t, *_ in rows)
    forward = sum(t * math.log(t / p) for p, _, t, *_ in rows)
    mean = sum(p * (r - BETA * math.log(p / q)) for p, q, _, r, _ in rows)
    spread = sum(p * (r - BETA * math.log(p / q) - mean) ** 2 for p, q, _, r, _ in rows)
    weight = sum((2 * p + 3 * q) / 5 * (z * t / ((2 * p + 3 * q) / 5)) ** 2 for p, q, t, *_ in rows)
    expected = {
        "eval/reward": sum(p * r for p, _, _, r, _ in rows),
        "eval/kl_prior": sum(p * math.log(p / q) for p, q, *_ in rows),
        "eval/kl_target_reverse": reverse,
        "eval/kl_target_forward": forward,
        "eval/tv_target": 0.5 * sum(abs(p - t) for p, _, t, *_ in rows),
        "eval/log_z": math.log(z),
        "eval/log_z_lower": math.log(z) - reverse,
        "eval/log_z_upper": math.log(z) + forward,
        "eval/ess": 5 * z**2 / weight,
        "eval/entropy": -sum(p * math.log(p) for p, *_ in rows),
        "eval/entropy_token": -sum(p * math.log(p) for p, *_ in rows) / length,
        "eval/perplexity_prior": math.exp(-sum(p * math.log(q) for p, q, *_ in rows) / length),
        "eval/penalised_reward_std": math.sqrt(spread),
        "eval/length": length,
        "eval/eos": sum(p for p, e in zip(policy, space.ended.tolist(), strict=True) if e),
        "target/entropy": -sum(t * math.log(t) for _, _, t, *_ in rows),
        "target/reward": sum(t * r for _, _, t, r, _ in rows),
        "target/kl_prior": sum(t * math.log(t / q) for _, q, t, *_ in rows),
        "policy/largest_probability": max(policy),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


def test_statistics_of_texts_are_means_over_all_pairs_of_samples(space):
    found, policy, _, _ = measured(space, n=2)
    content = space.lengths - space.ended.long()
    sums = dict.fromkeys(["types1", "tokens1", "types2", "tokens2", "copies", "rep", "run"], 0.0)
    for i, j in itertools.product(range(len(space)), repeat=2):
        weight = policy[i] * policy[j]
        pair = torch.tensor([i, j])
        tokens, sizes = space.tokens[pair], content[pair]
        for n, grams in enumerate(text.ngrams(tokens, sizes, 2), start=1):
            sums[f"types{n}"] += weight * len(set(grams.ids.tolist()))
            sums[f"tokens{n}"] += weight * len(grams.ids)
        sums["copies"] += weight * (i == j) / 2
        grams = text.ngrams(tokens, sizes, 2)[1]
        sums["rep"] += weight * float(text.repetition(grams).mean())
        sums["run"] += weight * float(text.longest_run(tokens, sizes).mean())
    assert found["eval/distinct_1"] == pytest.approx(sums["types1"] / sums["tokens1"])
    assert found["eval/distinct_2"] == pytest.approx(sums["types2"] / sums["tokens2"])
    assert found["eval/duplicates"] == pytest.approx(sums["copies"])
    assert found["eval/repetition_2"] == pytest.approx(sums["rep"])
    assert found["eval/longest_run"] == pytest.approx(sums["run"])
    assert found["eval/distinct_4"] == Unavailable("no sequence has 4 tokens")


def test_a_constraint_makes_reverse_kl_infinite_and_leaves_the_rest(space):
    found, policy, prior, reward = measured(space, constraint=True)
    outside = sum(p for p, r in zip(policy, reward, strict=True) if r == 0)
    for name in ("kl_target_reverse", "log_z_lower", "penalised_reward_std"):
        reason = f"infinite: probability {outside:.3g} lies outside of the target's support"
        assert found[f"eval/{name}"] == Unavailable(reason), name
    base = sum(q for q, r in zip(prior, reward, strict=True) if r == 1)
    assert found["eval/log_z"] == pytest.approx(math.log(base))
    assert all(isinstance(v, Unavailable) or math.isfinite(v) for v in found.values())


def test_probabilities_that_do_not_sum_to_one_are_an_error(space):
    log_policy, reward = normalised(space, 0), torch.zeros(len(space))
    with pytest.raises(ValueError, match="the policy's probabilities sum"):
        exact_metrics(
            space,
            log_policy + math.log(0.9),
            log_policy,
            log_policy,
            {"reward": reward},
            beta=BETA,
            n=10,
        )
