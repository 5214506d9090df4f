"""What comes before a continuation: exact sums, exact samples, and both bounds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support import LENGTH, LETTERS, LetterReward, sample
from target_sums import NO_PROMPT, PROMPTS, distribution, every, exact, log_z
from torch import Tensor

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.policy.policy import Policy
from klvi.rewards.scoring import scored
from klvi.samples import Samples
from klvi.targets import continuation
from klvi.targets.continuation import Continuation

REWARD = LetterReward()


def longer(policy: Policy, extra: int, contexts: Any = NO_PROMPT) -> tuple[Samples, Tensor]:
    """All sequences of `extra` tokens more, and their log π0 `(C, S)`."""
    target = Continuation(REWARD, policy.prior, "a")
    listed = exact(target, policy, contexts)
    listed.length = LENGTH + extra
    return every(listed), listed.log_priors


@pytest.mark.parametrize("contexts", [NO_PROMPT, PROMPTS])
def test_p_is_the_priors_given_what_follows(contexts: Any, policy: Policy) -> None:
    """Z = π0(no end in T tokens, then s), summed over all sequences of T + |s| tokens."""
    target = Continuation(REWARD, policy.prior, "b a")
    samples, log_prior = longer(policy, 2, contexts)
    follows = (samples.tokens[:, LENGTH:] == torch.tensor([1, 0])).all(1)
    follows &= (samples.tokens[:, :LENGTH] < LETTERS).all(1)
    joint = log_prior.exp()[:, follows.reshape(log_prior.shape)[0]]
    # Both kinds of sequences that go on after s, or end there, are of T + 2 tokens.
    assert joint.shape == (len(contexts), LETTERS**LENGTH)
    torch.testing.assert_close(
        log_z(target, policy, contexts).exp(), joint.sum(1), rtol=1e-5, atol=0
    )
    p = distribution(target, policy, contexts)
    going = ~every(exact(target, policy, contexts)).ended[: p.shape[1]]
    torch.testing.assert_close(p[:, going], joint / joint.sum(1, keepdim=True), rtol=1e-4, atol=0)
    assert float(p[:, ~going].sum()) == 0.0


def drawn(policy: Policy, count: int, seed: int = 0, context: Context = NO_PROMPT[0]) -> Samples:
    samples = sample(policy, [context] * count, seed=seed, max_new_tokens=LENGTH)
    return scored(samples, {"reward": REWARD}, update=0)


@pytest.mark.slow
def test_s_and_its_exact_sample_are_drawn_together(policy: Policy) -> None:
    """300 fits: E[log π0(s|x*)] and the rates of each s are those of the joint distribution.

    Each to within 4.5 standard deviations: 7e-6 for one, 4e-5 for the six together.
    """
    pool, size = drawn(policy, 300 * 24), 24
    target = Continuation(REWARD, policy.prior, None, length=1)
    fits = [target.fitted(pool.select(torch.arange(i * size, (i + 1) * size))) for i in range(300)]
    samples, log_prior = longer(policy, 1)
    going = (samples.tokens[:, :LENGTH] < LETTERS).all(1)
    joint = log_prior[0].exp()[going]
    joint = joint / joint.sum()
    words = samples.tokens[going]
    codes = words[:, :LENGTH] @ (LETTERS ** torch.arange(LENGTH))
    given = torch.zeros(LETTERS**LENGTH, dtype=torch.double).index_add_(0, codes, joint)[codes]
    values = (joint / given).log()
    mean = float(joint @ values)
    error = math.sqrt(float(joint @ (values - mean) ** 2) / len(fits))
    found = [float(fit.bounds[continuation.UPPER].value or 0) for fit in fits]
    assert sum(found) / len(found) == pytest.approx(mean, abs=4.5 * error)
    for token in range(LETTERS + 1):
        rate = float(joint[words[:, LENGTH] == token].sum())
        count = sum(list(fit.drawn[0]) == [token] for fit in fits)
        margin = 4.5 * math.sqrt(rate * (1 - rate) / len(fits))
        assert count / len(fits) == pytest.approx(rate, abs=margin)


@pytest.mark.parametrize("seed", [0, 1])
def test_both_bounds_hold(seed: int, policy: Policy) -> None:
    """Intervals of 95%, with fixed seeds."""
    samples = Samples.concatenate([drawn(policy, 400, seed, context) for context in PROMPTS])
    target = Continuation(REWARD, policy.prior, None, length=2).fitted(samples)
    truth = float(log_z(target, policy, PROMPTS).mean())
    lower, upper = (target.report()[name] for name in (continuation.LOWER, continuation.UPPER))
    assert isinstance(lower, Measurement)
    assert isinstance(upper, Measurement)
    assert lower.low < truth < upper.high
    assert upper.high == pytest.approx(min(upper.value + math.log(20) / 2, 0.0))
    gap = exact_gap(target, policy)
    assert lower.low < truth - gap < lower.high


def exact_gap(target: Continuation, policy: Policy) -> float:
    """log Z less the prior's lower bound: KL(π0(·|going on)‖p), the mean over prompts."""
    listed = exact(target, policy, PROMPTS)
    p = listed.log_targets(0).softmax(1)
    going = p > 0
    prior = torch.where(going, listed.log_priors.exp(), 0.0)
    prior = prior / prior.sum(1, keepdim=True)
    terms = torch.where(going, prior * (prior.log() - p.log()), 0.0)
    return float(terms.sum(1).mean())


def test_a_given_continuation_has_no_upper_bound(policy: Policy) -> None:
    target = Continuation(REWARD, policy.prior, "a")
    assert target.samples_to_fit(0) == 0
    assert target.fitted(drawn(policy, 4)) is target
    bound = target.report()["target/log_z_upper"]
    assert isinstance(bound, Unavailable)
    assert "target.text=null" in bound.reason


def test_what_was_drawn_is_restored(policy: Policy) -> None:
    target = Continuation(REWARD, policy.prior, None, length=3)
    assert (target.samples_to_fit(0), target.samples_to_fit(1)) == (1024, 0)
    assert (target.state(), target.with_state({})) == ({}, target)
    samples = drawn(policy, 64)
    fitted = target.fitted(samples)
    state = fitted.state()
    restored = target.with_state(state)
    assert restored == fitted
    assert restored.report() == fitted.report()
    assert state["texts"]["0"] == policy.prior.tokenizer.decode(fitted.drawn[0])
    torch.testing.assert_close(restored.log_potential(samples), fitted.log_potential(samples))
    assert target.fitted(drawn(policy, 64)) == fitted
    others = [target.fitted(drawn(policy, 64, seed)).drawn for seed in range(1, 6)]
    assert any(other != fitted.drawn for other in others)


def test_a_prompt_that_always_ends_is_refused(policy: Policy) -> None:
    samples = drawn(policy, 64)
    ended = samples.select(samples.ended.nonzero()[:, 0])
    target = Continuation(REWARD, policy.prior, None)
    with pytest.raises(UserError, match=r"^target=continuation: .*all end before max_new_tokens"):
        target.fitted(ended)
    assert bool(torch.isneginf(target.log_potential(ended)).all())
    with pytest.raises(UserError, match=r"prompt 0 .*no continuation: raise target\.fit_samples"):
        target.log_potential(samples)


@pytest.mark.parametrize(("text", "said"), [("hello", "no tokens for"), ("a e", "no tokens for")])
def test_a_text_without_tokens_is_refused(text: str, said: str, policy: Policy) -> None:
    with pytest.raises(UserError, match=rf"^target\.text='{text}': .*{said}.*; give another$"):
        Continuation(REWARD, policy.prior, text)


def test_what_does_not_fit_the_model_is_refused(policy: Policy) -> None:
    target = Continuation(REWARD, policy.prior, " ".join("a" * 200))
    with pytest.raises(UserError, match=r"exceeds the \d+ positions of model enumerable"):
        target.log_potential(drawn(policy, 16))
