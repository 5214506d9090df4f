"""The numbered facts of the method, on a distribution all of whose sequences can be listed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toy import Toy, condition, graded_reward, problem, random_toy, sequences, token_log_probs

from klvi.metrics import estimators
from klvi.metrics.frontier import frontier_violation
from klvi.metrics.measurement import Measurement, Unavailable

SPACE = sequences()
PRIOR = random_toy(1)
REWARD = graded_reward(SPACE)
LOG_PRIOR = token_log_probs(PRIOR, SPACE).sum(1)
BINARY = (SPACE.tokens[:, :2] == torch.tensor([2, 1])).all(1).double()


def number(value: float | Unavailable) -> float:
    assert isinstance(value, float)
    return value


def exact(policy: Toy, log_potential: Tensor, beta: float, reward: Tensor = REWARD):
    return problem(policy, PRIOR, reward, log_potential).exact(beta)


def posterior(beta: float, reward: Tensor = REWARD) -> Toy:
    return condition(PRIOR, reward / beta, SPACE)


def trainable(seed: int) -> Toy:
    toy = random_toy(seed)
    for table in toy.logits:
        table.requires_grad_()
    return toy


def gradients(value: Tensor, toy: Toy) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, toy.logits)])


def test_the_toy_is_a_distribution_and_its_posterior_is_exact():
    assert float(LOG_PRIOR.exp().sum()) == pytest.approx(1, abs=1e-12)
    target = LOG_PRIOR + REWARD / 0.2
    found = token_log_probs(posterior(0.2), SPACE).sum(1)
    assert torch.allclose(found, target - target.logsumexp(0), atol=1e-10)


@pytest.mark.parametrize("seed", range(3, 8))
@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_fact_1_the_objective_is_log_z_less_the_divergence(seed, beta):
    found = exact(random_toy(seed), REWARD / beta, beta)
    objective = found["eval/reward"] - beta * found["eval/kl_prior"]
    expected = beta * found["eval/log_z"] - beta * found["eval/kl_target_reverse"]
    assert objective == pytest.approx(expected, abs=1e-10)
    assert beta * found["eval/log_z_lower"] == pytest.approx(objective, abs=1e-10)


def test_fact_1_the_penalised_reward_is_the_gradient_of_the_objective():
    """`E_π[r'·∇log π] = ∇J = −β∇KL(π‖p)`, r' held fixed."""
    beta, toy = 0.3, trainable(3)
    log_policy = token_log_probs(toy, SPACE).sum(1)
    log_target = LOG_PRIOR + REWARD / beta
    penalised = estimators.penalised_reward(log_policy.detach(), log_target, beta)
    score = gradients((log_policy.detach().exp() * penalised * log_policy).sum(), toy)
    log_policy = token_log_probs(toy, SPACE).sum(1)
    log_density = log_target - log_target.logsumexp(0)
    divergence = (log_policy.exp() * (log_policy - log_density)).sum()
    assert torch.allclose(score, -beta * gradients(divergence, toy), rtol=1e-6, atol=1e-12)


def test_fact_2_the_penalised_reward_is_constant_at_the_posterior_alone():
    beta = 0.3
    at, off = posterior(beta), posterior(beta * 1.01)
    assert number(exact(at, REWARD / beta, beta)["eval/penalised_reward_std"]) < 1e-7
    assert number(exact(off, REWARD / beta, beta)["eval/penalised_reward_std"]) > 1e-3
    penalised = estimators.penalised_reward(
        token_log_probs(at, SPACE).sum(1), LOG_PRIOR + REWARD / beta, beta
    )
    log_z = number(exact(at, REWARD / beta, beta)["eval/log_z"])
    assert torch.allclose(penalised, torch.full_like(penalised, beta * log_z), atol=1e-9)


def test_fact_2_its_variance_is_that_of_the_log_ratio_to_the_target():
    beta, toy = 0.3, random_toy(4)
    log_policy = token_log_probs(toy, SPACE).sum(1)
    log_density = token_log_probs(posterior(beta), SPACE).sum(1)
    policy, gap = log_policy.exp(), log_policy - log_density
    variance = float(policy @ (gap - policy @ gap) ** 2)
    found = exact(toy, REWARD / beta, beta)["eval/penalised_reward_std"]
    assert number(found) ** 2 == pytest.approx(beta**2 * variance, rel=1e-9)


def test_fact_3_the_posteriors_distance_from_the_prior():
    rewards, distances = [], []
    for beta in (2.0, 1.0, 0.5, 0.25, 0.12, 0.06):
        found = exact(PRIOR, REWARD / beta, beta)
        expected = found["target/reward"] / beta - found["eval/log_z"]
        assert found["target/kl_prior"] == pytest.approx(expected, abs=1e-9)
        rewards.append(found["target/reward"])
        distances.append(found["target/kl_prior"])
    assert rewards == sorted(rewards)
    assert distances == sorted(distances)


@pytest.mark.parametrize("beta", [0.2, 0.5, 1.0])
def test_fact_5_a_binary_posterior_approaches_the_constraint(beta):
    found = exact(posterior(beta, BINARY), BINARY.log(), beta, BINARY)
    z = float(LOG_PRIOR.exp() @ BINARY)
    expected = (1 - z) / (1 - z + z * math.exp(1 / beta))
    assert found["eval/tv_target"] == pytest.approx(expected, rel=1e-9)


def test_fact_5_moments_split_divergences_like_pythagoras():
    feature = (SPACE.tokens == 0).sum(1).double()
    target = condition(PRIOR, 0.4 * feature, SPACE)
    moment = float(token_log_probs(target, SPACE).sum(1).exp() @ feature)
    start = random_toy(6)
    low, high = -50.0, 50.0
    for _ in range(200):
        middle = (low + high) / 2
        other = condition(start, middle * feature, SPACE)
        mean = float(token_log_probs(other, SPACE).sum(1).exp() @ feature)
        low, high = (middle, high) if mean < moment else (low, middle)
    found = exact(other, 0.4 * feature, 1.0)
    whole = found["eval/kl_target_reverse"] + found["target/kl_prior"]
    assert found["eval/kl_prior"] == pytest.approx(whole, abs=1e-9)


def test_fact_6_a_reward_divided_by_its_deviation_has_another_target():
    """`E_π[r/σ] − β·KL` is stationary at the posterior of βσ and not at that of β."""
    beta, deviation = 0.3, float(REWARD.std())

    def slope(at: float) -> float:
        toy = Toy([table.clone().requires_grad_() for table in posterior(at).logits])
        log_policy = token_log_probs(toy, SPACE).sum(1)
        kl = (log_policy.exp() * (log_policy - LOG_PRIOR)).sum()
        objective = log_policy.exp() @ (REWARD / deviation) - beta * kl
        return float(gradients(objective, toy).abs().max())

    assert slope(beta * deviation) < 1e-10
    assert slope(beta) > 1e-3
    missed = exact(posterior(beta * deviation), REWARD / beta, beta)
    assert number(missed["eval/kl_target_reverse"]) > 0.05


def test_fact_6_k3_as_a_loss_lands_elsewhere():
    """k3 through autograd pulls towards `β·π0/(Λ − r)`, which is not the posterior."""
    beta = 0.3
    low, high = float(REWARD.max()) + 1e-9, float(REWARD.max()) + 100
    for _ in range(200):
        middle = (low + high) / 2
        total = float((beta * LOG_PRIOR.exp() / (middle - REWARD)).sum())
        low, high = (middle, high) if total > 1 else (low, middle)
    landed = condition(PRIOR, math.log(beta) - (high - REWARD).log(), SPACE)
    toy = Toy([table.clone().requires_grad_() for table in landed.logits])
    log_policy = token_log_probs(toy, SPACE).sum(1)
    weight = log_policy.detach().exp()
    k1 = estimators.kl_k1(log_policy, LOG_PRIOR)
    k3 = torch.expm1(-k1) + k1
    pull = gradients((weight * REWARD * log_policy).sum() - beta * (weight * k3).sum(), toy)
    assert float(pull.abs().max()) < 1e-8
    assert float(weight @ k3.detach()) == pytest.approx(float(weight @ k1.detach()), abs=1e-9)
    missed = exact(landed, REWARD / beta, beta)
    assert number(missed["eval/kl_target_reverse"]) > 0.05


def measured(value: float | Unavailable) -> Measurement:
    return Measurement(number(value), number(value), number(value), 1)


@pytest.mark.parametrize("beta", [0.1, 0.3, 1.0, 5.0])
def test_fact_8_no_policy_lies_above_the_frontier(beta):
    for policy in [PRIOR, *(random_toy(seed) for seed in range(3, 7)), posterior(0.2)]:
        found = exact(policy, REWARD / beta, beta)
        names = ("eval/reward", "eval/kl_prior", "eval/log_z")
        assert frontier_violation(*(measured(found[name]) for name in names), beta=beta) is None


def test_fact_8_the_posterior_lies_on_it_so_that_half_its_kl_lies_above():
    beta = 0.3
    found = exact(posterior(beta), REWARD / beta, beta)
    reward, log_z = measured(found["eval/reward"]), measured(found["eval/log_z"])
    assert frontier_violation(reward, measured(found["eval/kl_prior"]), log_z, beta) is None
    line = frontier_violation(reward, measured(number(found["eval/kl_prior"]) / 2), log_z, beta)
    assert line is not None


def test_fact_10_a_constraints_distance_is_the_base_rates_logarithm():
    found = exact(PRIOR, BINARY.log(), 1.0, BINARY)
    base_rate = float(LOG_PRIOR.exp() @ BINARY)
    assert found["target/kl_prior"] == pytest.approx(-math.log(base_rate), abs=1e-12)
    assert found["eval/kl_target_forward"] == pytest.approx(-math.log(base_rate), abs=1e-12)
    assert found["target/reward"] == pytest.approx(1.0)
