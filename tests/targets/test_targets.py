"""Targets against exact sums over a small space of completions (theory, sections 2 and 6)."""

import math
from typing import ClassVar, Literal

import pytest
import torch
from support import LetterReward, made_samples, train_config

from klvi.contexts import contexts_of
from klvi.errors import UserError
from klvi.rewards.schema import RewardSection
from klvi.samples import Samples
from klvi.targets import schema
from klvi.targets.build import build_target
from klvi.targets.constraint import Constraint
from klvi.targets.posterior import Posterior

REWARD = LetterReward()


@pytest.fixture
def log_prior():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(50, generator=generator, dtype=torch.float64).log_softmax(0)


@pytest.fixture
def reward():
    return torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def distribution(target, log_prior, reward):
    return target.log_unnormalised(samples(log_prior, reward)).softmax(0)


def samples(log_prior, reward):
    n = len(reward)
    whole = torch.stack([log_prior / 3, 2 * log_prior / 3], dim=1)
    return Samples(
        contexts=contexts_of([""] * n),
        prompt_tokens=torch.zeros(n, 1, dtype=torch.long),
        prompt_lengths=torch.ones(n, dtype=torch.long),
        tokens=torch.zeros(n, 2, dtype=torch.long),
        lengths=torch.full((n,), 2),
        ended=torch.ones(n, dtype=torch.bool),
        log_policy=torch.zeros(n, 2),
        log_prior=whole,
        texts=[""] * n,
        scores={"reward": reward},
    )


def test_a_constant_added_to_the_reward_changes_nothing(log_prior, reward):
    p, shifted = (distribution(Posterior(REWARD, 0.3), log_prior, r) for r in (reward, reward + 5))
    torch.testing.assert_close(p, shifted)


def test_scaling_reward_and_beta_together_changes_nothing(log_prior, reward):
    p = distribution(Posterior(REWARD, 0.3), log_prior, reward)
    torch.testing.assert_close(p, distribution(Posterior(REWARD, 0.9), log_prior, 3 * reward))
    assert not torch.allclose(p, distribution(Posterior(REWARD, 0.3), log_prior, 3 * reward))


def test_the_posterior_maximises_expected_reward_minus_beta_kl(log_prior, reward):
    beta = 0.4
    p = distribution(Posterior(REWARD, beta), log_prior, reward)
    optimum = beta * (log_prior + reward / beta).logsumexp(0)
    noise = torch.randn(20, 50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for policy in [p, *(p.log() + 0.1 * noise).softmax(1)]:
        objective = policy @ reward - beta * (policy @ (policy.log() - log_prior))
        gap = beta * (policy @ (policy.log() - p.log()))
        torch.testing.assert_close(objective, optimum - gap)


def test_the_constraint_is_the_conditioned_prior(log_prior, reward):
    p = distribution(Constraint(REWARD, 0.5, 0.1), log_prior, reward)
    meets = reward >= 0.5
    z = log_prior.exp()[meets].sum()
    torch.testing.assert_close(p, log_prior.exp() * meets / z)
    kl = p[meets] @ (p[meets].log() - log_prior[meets])
    torch.testing.assert_close(kl, -z.log())


def test_the_threshold_itself_meets_the_constraint():
    scored = samples(torch.zeros(3), torch.tensor([0.4999, 0.5, 0.5001]))
    assert Constraint(REWARD, 0.5, 0.1).log_potential(scored).tolist() == [-math.inf, 0.0, 0.0]


@pytest.mark.parametrize("beta", [1.0, 0.3, 0.1, 0.01])
def test_the_posterior_of_a_binary_reward_tends_to_the_constraint(log_prior, reward, beta):
    binary = (reward >= 0.5).double()
    soft = distribution(Posterior(REWARD, beta), log_prior, binary)
    hard = distribution(Constraint(REWARD, 0.5, beta), log_prior, binary)
    z = (log_prior.exp() @ binary).item()
    expected = (1 - z) / (1 - z + z * math.exp(1 / beta))
    assert (soft - hard).abs().sum().item() / 2 == pytest.approx(expected, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("target", [Posterior(REWARD, 0.3), Constraint(REWARD, 0.5, 0.3)])
def test_log_p_sums_the_tokens_and_adds_the_potential(target, log_prior, reward):
    scored = samples(log_prior, reward)
    log_target = target.log_unnormalised(scored)
    torch.testing.assert_close(log_target, log_prior + target.log_potential(scored))
    assert log_target.dtype == torch.float64


@pytest.mark.parametrize("target", [Posterior(REWARD, 0.3), Constraint(REWARD, 0.5, 0.3)])
def test_tempering_leads_from_the_prior_to_the_target(target, log_prior, reward):
    scored = samples(log_prior, reward)
    assert target.tempered(0.0).log_potential(scored).tolist() == [0.0] * len(scored)
    assert target.tempered(1.0) == target
    half = target.tempered(0.5)
    torch.testing.assert_close(half.log_potential(scored), 0.5 * target.log_potential(scored))
    assert (half.beta, half.scorers) == (target.beta, {"reward": REWARD})


@pytest.mark.parametrize("target", [Posterior(REWARD, 0.3), Posterior(REWARD, 0.3).tempered(0.5)])
def test_nothing_is_fitted_or_kept_of_a_posterior(target, log_prior, reward):
    assert target.fitted(samples(log_prior, reward)) is target
    assert target.with_state(target.state()) is target
    with pytest.raises(ValueError, match="keeps no state"):
        target.with_state({"multiplier": 1.0})


def test_scores_are_one_number_a_sample(log_prior, reward):
    with pytest.raises(ValueError, match=r"score reward: \(50, 2\), not \(50,\)"):
        samples(log_prior, reward).with_scores({"reward": torch.zeros(50, 2)})


def test_built_from_the_configuration():
    assert build_target(schema.PosteriorTarget(name="posterior"), REWARD, 0.2) == Posterior(
        REWARD, 0.2
    )
    config = schema.ConstraintTarget(name="constraint", threshold=0.7)
    assert build_target(config, REWARD, 0.2) == Constraint(REWARD, 0.7, 0.2)


class PlacedReward(RewardSection):
    builds: ClassVar[str] = f"{__name__}:placed"
    name: Literal["placed"]


class FeatureTarget(schema.TargetSection):
    builds: ClassVar[str] = f"{__name__}:featured"
    name: Literal["feature"]
    feature: PlacedReward


def placed(run_device):
    return run_device


def featured(feature, reward, beta):
    return feature, reward, beta


def test_a_reward_of_a_target_is_on_the_runs_device():
    section = FeatureTarget(name="feature", feature=PlacedReward(name="placed"))
    assert build_target(section, REWARD, 0.2, "cuda:1") == ("cuda:1", REWARD, 0.2)


@pytest.mark.parametrize(("beta", "size"), [(0.5, 1e30), (1e-300, 1.0), (1e-300, -1e30)])
def test_a_potential_that_cannot_be_resolved_is_refused(beta: float, size: float) -> None:
    target = build_target(train_config().target, LetterReward(), beta)
    reward = torch.tensor([0.0, size], dtype=torch.float64)
    samples = made_samples([1, 1]).with_scores({"reward": reward})
    with pytest.raises(UserError, match=r"reward of size .* beta=.*scale the reward"):
        target.log_potential(samples)


@pytest.mark.parametrize(
    ("potential", "said"),
    [
        (lambda n: torch.zeros(n, 1), r"gave a tensor of shape \(2, 1\) for 2 samples"),
        (lambda n: torch.zeros(()), r"gave a tensor of shape \(\) for 2 samples"),
        (lambda n: 0.0, "gave float for 2 samples"),
        (lambda n: torch.full((n,), torch.nan), "gave NaN or infinity"),
        (lambda n: torch.full((n,), torch.inf), "gave NaN or infinity"),
    ],
)
def test_a_potential_that_is_none_is_refused(potential, said, monkeypatch):
    target = Posterior(REWARD, 0.2)
    monkeypatch.setattr(Posterior, "log_potential", lambda self, samples: potential(len(samples)))
    with pytest.raises(UserError, match=f"^target=posterior: its log_potential {said}"):
        target.log_unnormalised(made_samples([1, 2]))
