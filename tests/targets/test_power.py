"""The sharpened prior, against exact sums."""

from __future__ import annotations

import math

import pytest
import torch
import toy
from support import LetterReward
from target_sums import NO_PROMPT, PROMPTS, distribution, exact, log_z

from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.targets.posterior import Posterior
from klvi.targets.power import Power

REWARD = LetterReward()


@pytest.mark.parametrize("alpha", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("contexts", [NO_PROMPT, PROMPTS])
def test_p_is_a_power_of_the_prior(alpha: float, contexts, policy: Policy) -> None:
    """log Z = (1 − α)·H_α(π0), H_α = log Σ π0^α/(1 − α) the Rényi entropy."""
    log_prior = exact(Power(REWARD), policy, contexts).log_priors
    found = distribution(Power(REWARD, alpha), policy, contexts)
    torch.testing.assert_close(found, (alpha * log_prior).softmax(1))
    renyi = (log_prior.exp() ** alpha).sum(1).log() / (1 - alpha)
    torch.testing.assert_close(log_z(Power(REWARD, alpha), policy, contexts), (1 - alpha) * renyi)


def test_it_is_the_posterior_of_the_priors_own_log_probability(policy: Policy) -> None:
    target = Power(REWARD, 3.0)
    samples = exact(target, policy).scored(0)
    log_prior = samples.with_scores({"reward": samples.log_prior_sequence})
    posterior = Posterior(REWARD, 1 / (3.0 - 1))
    torch.testing.assert_close(target.log_potential(samples), posterior.log_potential(log_prior))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_tempered_it_is_a_smaller_power(share: float, policy: Policy) -> None:
    log_prior = exact(Power(REWARD), policy).log_priors
    tempered = distribution(Power(REWARD, 4.0).tempered(share), policy)
    torch.testing.assert_close(tempered, ((1 + share * 3) * log_prior).softmax(1))


def test_it_is_not_the_temperature_of_tokens() -> None:
    """π_t(v|s) ∝ π0(v|s)^α lacks Σ_y π0(y|s)^α, with which it is p."""
    alpha, space, prior = 3.0, toy.sequences(), toy.random_toy(0)
    log_prior = toy.token_log_probs(prior, space).sum(1)
    p = (alpha * log_prior).softmax(0)
    by_token = toy.Toy([alpha * table for table in prior.next_token()])
    tempered = toy.token_log_probs(by_token, space).sum(1).exp()
    assert math.isclose(float(tempered.sum()), 1.0)
    assert float((p - tempered).abs().sum()) / 2 > 0.1
    conditioned = toy.condition(prior, (alpha - 1) * log_prior, space)
    torch.testing.assert_close(toy.token_log_probs(conditioned, space).sum(1).exp(), p)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -2.0])
def test_the_exponent_is_positive_and_not_one(alpha: float) -> None:
    with pytest.raises(UserError, match="alpha="):
        Power(REWARD, alpha)
