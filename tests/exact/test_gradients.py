"""Gradients of the losses, summed over all sequences, against autograd of the divergence."""

from __future__ import annotations

import pytest
import torch
from support import Enumeration, disturb, letter_reward
from torch import Tensor
from torch.testing import assert_close

from klvi.engine.micro_batch import MicroBatch
from klvi.objectives.gdc import dpg_loss
from klvi.objectives.ppo import clipped_policy_loss, generalised_advantages, penalised_rewards
from klvi.policy.policy import Policy

BETA = 0.2


class Exact:
    """The enumerable policy in float64, with everything about every sequence."""

    def __init__(self, policy: Policy, enumeration: Enumeration) -> None:
        self.policy, self.enumeration = policy, enumeration
        policy.model.double()
        disturb(policy, 0.2)
        batch = enumeration.completions
        prompts = batch.prompt_tokens, batch.prompt_lengths
        texts = policy.prior.decode(*prompts, batch.tokens, batch.lengths)
        self.reward = letter_reward(texts).double()
        self.log_prior = enumeration.log_probs_prior(policy)
        log_joint = self.log_prior + self.reward / BETA
        self.log_z = log_joint.logsumexp(0)
        self.log_target = log_joint - self.log_z

    def token_log_probs(self, prior: bool = False) -> Tensor:
        batch = self.enumeration.completions

        model = self.policy.prior.model if prior else self.policy.model
        return MicroBatch.of(batch).forward(model).log_probs()

    def gradient(self, loss: Tensor) -> Tensor:
        parameters = self.policy.adapter_parameters()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


@pytest.fixture
def exact(policy: Policy, enumeration: Enumeration) -> Exact:
    return Exact(policy, enumeration)


def relative_error(mine: Tensor, expected: Tensor) -> float:
    return float((mine - expected).norm() / expected.norm())


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("prior_share", [0.0, 0.5, 1.0])
def test_gdc_is_the_gradient_of_forward_kl(
    exact: Exact, baseline: bool, prior_share: float
) -> None:
    log_policy = exact.enumeration.log_probs(exact.policy)
    density = log_policy.detach().exp()
    proposal = (1 - prior_share) * density + prior_share * exact.log_prior.exp()
    weights = exact.log_target.exp() / proposal
    base = density / proposal if baseline else torch.zeros_like(weights)
    # Each sequence stands for proposal(x) of a sample.
    loss = dpg_loss(log_policy, weights * proposal, base * proposal)
    target = exact.log_target.exp()
    divergence = (target * (exact.log_target - exact.enumeration.log_probs(exact.policy))).sum()
    assert relative_error(exact.gradient(loss), exact.gradient(divergence)) < 1e-6


@pytest.mark.parametrize("values", ["zero", "random"])
def test_ppo_is_the_gradient_of_reverse_kl_to_the_posterior(exact: Exact, values: str) -> None:
    """At ratio 1 and λ = 1, whatever the values of the prefixes are."""
    assert ppo_error(exact, values, BETA, exact.reward) < 1e-6


def test_ppo_without_penalty_is_the_gradient_of_the_reward(exact: Exact) -> None:
    gradient, _ = ppo_gradient(exact, "zero", 0.0, exact.reward)
    log_policy = exact.enumeration.log_probs(exact.policy)
    expected = exact.gradient(-(log_policy.exp() * exact.reward).sum())
    assert relative_error(gradient, expected) < 1e-6


def ppo_error(exact: Exact, values: str, beta: float, reward: Tensor) -> float:
    gradient, log_policy = ppo_gradient(exact, values, beta, reward)
    reverse_kl = (log_policy.exp() * (log_policy - exact.log_target)).sum()
    return relative_error(gradient, exact.gradient(beta * reverse_kl))


def ppo_gradient(exact: Exact, values: str, beta: float, reward: Tensor) -> tuple[Tensor, Tensor]:
    batch = exact.enumeration.completions
    now = exact.token_log_probs()
    old = now.detach()
    rewards = penalised_rewards(old, exact.token_log_probs(prior=True), reward, batch.lengths, beta)
    critic = torch.zeros_like(rewards)
    if values == "random":
        critic = prefix_values(batch.tokens) * batch.mask
    advantages = generalised_advantages(rewards, critic, batch.mask, gae_lambda=1.0)
    weights = old.sum(1).exp()
    loss = clipped_policy_loss(now, old, advantages * weights[:, None], batch.mask, clip=0.2)
    return exact.gradient(loss), exact.enumeration.log_probs(exact.policy)


def prefix_values(tokens: Tensor) -> Tensor:
    """A value `(S, T)` that depends on the prefix before each token alone."""
    shifted = torch.nn.functional.pad(tokens[:, :-1], (1, 0)).double()
    return torch.sin(shifted.cumsum(1) + torch.arange(tokens.shape[1]))


def test_the_penalised_objective_is_log_z_minus_the_divergence(exact: Exact) -> None:
    """Fact 1 of the theory: J(π) = β log Z − β KL(π‖p)."""
    log_policy = exact.enumeration.log_probs(exact.policy).detach()
    policy = log_policy.exp()
    objective = (policy * exact.reward).sum() - BETA * (
        policy * (log_policy - exact.log_prior)
    ).sum()
    divergence = (policy * (log_policy - exact.log_target)).sum()
    # An equality where π sums to 1 in float64, as the exact log-softmax makes it.
    assert_close(objective, BETA * (exact.log_z - divergence), atol=1e-10, rtol=0)


def test_a_constant_reward_has_no_gradient(exact: Exact) -> None:
    constant = torch.full_like(exact.reward, 0.7)
    scale = ppo_gradient(exact, "random", 0.0, exact.reward)[0].norm()
    assert ppo_gradient(exact, "random", 0.0, constant)[0].norm() < 1e-8 * scale


def test_at_the_target_the_gradients_vanish(policy: Policy, enumeration: Enumeration) -> None:
    """A constant reward makes the posterior the prior, where a fresh policy starts."""
    policy.model.double()
    log_policy = enumeration.log_probs(policy)
    weights = torch.ones_like(log_policy)
    density = log_policy.detach().exp()
    loss = dpg_loss(log_policy, weights * density, torch.zeros_like(weights))
    gradients = torch.autograd.grad(loss, policy.adapter_parameters())
    assert max(float(g.abs().max()) for g in gradients) < 1e-10
