"""A mixture of policy and prior as the proposal."""

from __future__ import annotations

from dataclasses import replace

import torch
from support import LENGTH, LetterReward, disturb, made_samples, train_config
from torch.testing import assert_close

from klvi.contexts import contexts_of
from klvi.policy.policy import Policy
from klvi.policy.prior import load_prior
from klvi.randomness import Randomness
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.mixture import Mixture, from_prior, log_mixture
from klvi.targets.posterior import Posterior


def test_its_share_of_the_prior_comes_last_and_knows_both_densities() -> None:
    config = train_config()
    policy = disturb(Policy(load_prior(config.model), config.lora), 0.6)
    draw = Mixture(Ancestral(LENGTH), 0.5).sample(
        policy,
        Posterior(LetterReward(), 0.3),
        contexts_of([""] * 4000),
        Randomness("rollout", (1,), 1),
    )
    samples = draw.samples
    assert len(samples) == 4000
    assert_close(samples.log_policy, policy.log_probs(samples), atol=1e-4, rtol=0)
    prior = Policy(policy.prior)
    assert_close(samples.log_prior, prior.log_probs(samples), atol=1e-4, rtol=0)
    log_ratio = (samples.log_policy - samples.log_prior).sum(1)
    # KL(π‖π0) > 0 > −KL(π0‖π), each many standard errors from 0.
    for half, sign in ((log_ratio[:2000], 1), (log_ratio[2000:], -1)):
        assert sign * half.mean() > 8 * half.std() / 2000**0.5
    # The weighted mean is the policy's own.
    assert abs(samples.mean(log_ratio.double()) - log_ratio[:2000].mean().item()) < 0.1


def test_shares_are_those_of_the_context() -> None:
    """Of context a two of four samples come from the prior, of b none."""
    samples = replace(made_samples([2] * 6), contexts=contexts_of(list("aabbaa")))
    policy, prior = samples.log_policy_sequence.exp(), samples.log_prior_sequence.exp()
    expected = torch.where(torch.tensor([1, 1, 0, 0, 1, 1]) == 1, (policy + prior) / 2, policy)
    assert_close(log_mixture(samples, 2).exp(), expected)


def test_a_sample_is_divided_by_the_density_of_what_drew_it() -> None:
    samples = made_samples([2, 3, 4, 1])
    drawn = torch.tensor([0.3, -0.2, 0.1, 0.0]).double()
    own = torch.cat([samples.log_policy_sequence[:3], samples.log_prior_sequence[3:]])
    rounded = replace(samples, log_density=own + drawn)
    assert_close(log_mixture(rounded, 1), log_mixture(samples, 1) + drawn)


def test_a_batch_too_small_for_a_mixture_is_the_policys_own() -> None:
    samples = made_samples([2])
    assert_close(log_mixture(samples, 0), samples.log_policy_sequence)


def test_the_priors_rows_are_spread_evenly_whoever_draws_them() -> None:
    assert from_prior(0, 10, 0.5).nonzero()[:, 0].tolist() == [1, 3, 5, 7, 9]
    every = from_prior(0, 10, 0.3)
    assert every.nonzero()[:, 0].tolist() == [3, 6, 9]
    assert torch.equal(torch.cat([from_prior(0, 3, 0.3), from_prior(3, 7, 0.3)]), every)
    assert from_prior(0, 4, 1.0).all()
    assert not from_prior(0, 4, 0.0).any()
