"""Estimators are unbiased, and as precise as they claim, on a distribution that can be summed."""

from __future__ import annotations

import pytest
import torch
from toy import between, condition, graded_reward, problem, random_toy, sequences

from klvi.metrics import estimators, importance
from klvi.metrics.importance import LogProbabilities

BETA = 0.4
SPACE = sequences()
PRIOR = random_toy(1)
REWARD = graded_reward(SPACE)
TARGET = condition(PRIOR, REWARD / BETA, SPACE)
CASE = problem(between(PRIOR, TARGET, 0.5), PRIOR, REWARD, REWARD / BETA)
EXACT = CASE.exact(BETA, 500, 1000)
LOG_POLICY, LOG_PRIOR = CASE.log_policy.sum(1), CASE.log_prior.sum(1)
IMPORTANCE = {
    "eval/kl_target_reverse": importance.kl_reverse,
    "eval/kl_target_forward": importance.kl_forward,
    "eval/tv_target": importance.total_variation,
    "eval/log_z": importance.log_z,
    "eval/log_z_lower": importance.log_z_lower,
    "eval/log_z_upper": importance.log_z_upper,
    "eval/ess": importance.effective_sample_size,
}


def chosen(rows: torch.Tensor) -> LogProbabilities:
    return LogProbabilities(LOG_POLICY[rows], LOG_PRIOR[rows], CASE.log_target[rows])


@pytest.fixture(scope="module")
def mixtures() -> list[importance.Mixture]:
    generator = torch.Generator().manual_seed(0)
    return [
        importance.mixture(
            chosen(CASE.draw(CASE.log_policy, 500, generator)),
            chosen(CASE.draw(CASE.log_prior, 1000, generator)),
        )
        for _ in range(300)
    ]


@pytest.mark.parametrize("name", IMPORTANCE)
def test_importance_sampling_is_unbiased_and_knows_its_error(name, mixtures):
    """A mean of 300 lies within 4 of its standard errors but once in 16,000.

    Ratios of means have a bias of the order of their variance, for which half of one error is left.
    """
    found = [IMPORTANCE[name](mix) for mix in mixtures]
    values = torch.tensor([estimate.value for estimate in found])
    spread = float(values.std())
    assert abs(float(values.mean()) - EXACT[name]) < 4 * spread / 300**0.5 + 0.1 * spread
    claimed = torch.tensor([estimate.error for estimate in found]).mean()
    assert float(claimed) == pytest.approx(spread, rel=0.15)


def test_expectations_under_the_target_are_self_normalised(mixtures):
    generator = torch.Generator().manual_seed(1)
    values = []
    for _ in range(300):
        rows = [CASE.draw(log, 500, generator) for log in (CASE.log_policy, CASE.log_prior)]
        mix = importance.mixture(*(chosen(part) for part in rows))
        values.append(importance.target_expectation(mix, REWARD[torch.cat(rows)]).value)
    found = torch.tensor(values)
    spread = float(found.std())
    assert abs(float(found.mean()) - EXACT["target/reward"]) < 4 * spread / 300**0.5 + 0.1 * spread


def test_divergences_to_the_target_are_never_negative(mixtures):
    for mix in mixtures:
        for estimator in (importance.kl_reverse, importance.kl_forward, importance.total_variation):
            assert estimator(mix).value >= 0


def test_at_the_target_divergences_and_their_errors_vanish():
    case = problem(TARGET, PRIOR, REWARD, REWARD / BETA)
    generator = torch.Generator().manual_seed(0)
    parts = []
    for log in (case.log_policy, case.log_prior):
        rows = case.draw(log, 300, generator)
        parts.append(
            LogProbabilities(case.log_policy.sum(1)[rows], LOG_PRIOR[rows], case.log_target[rows])
        )
    mix = importance.mixture(*parts)
    for estimator in (importance.kl_reverse, importance.kl_forward, importance.total_variation):
        found = estimator(mix)
        assert abs(found.value) < 1e-9
        assert found.error < 1e-6
    assert importance.log_z(mix).value == pytest.approx(EXACT["eval/log_z"], abs=1e-9)
    assert importance.log_z(mix).error < 1e-6


def test_the_mixture_beats_each_of_its_parts(mixtures):
    generator = torch.Generator().manual_seed(2)
    alone: dict[str, list[float]] = {"policy": [], "prior": []}
    for _ in range(300):
        policy = chosen(CASE.draw(CASE.log_policy, 1500, generator))
        prior = chosen(CASE.draw(CASE.log_prior, 1500, generator))
        alone["policy"].append(importance.log_z(importance.mixture(policy)).value)
        as_policy = LogProbabilities(prior.prior, prior.prior, prior.target)
        alone["prior"].append(importance.log_z(importance.mixture(as_policy)).value)
    both = torch.tensor([importance.log_z(mix).value for mix in mixtures]).std()
    for values in alone.values():
        assert both < torch.tensor(values).std()


def rows_of(n: int, seed: int) -> torch.Tensor:
    return CASE.draw(CASE.log_policy, n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["kl_prior", "entropy", "entropy_token"])
def test_control_variates_sharpen_and_do_not_shift(name):
    """Errors by repetition: 300 of 200 samples; the bound is 4 standard errors."""
    plain, sharp = [], []
    for seed in range(300):
        rows = rows_of(200, seed)
        log_policy, lengths = CASE.log_policy[rows], CASE.space.lengths[rows].double()
        exact = CASE.kl[rows] if name == "kl_prior" else CASE.entropy[rows]
        arguments = {
            "kl_prior": (log_policy, CASE.log_prior[rows]),
            "entropy": (log_policy,),
            "entropy_token": (log_policy, lengths),
        }[name]
        estimator = getattr(estimators, name)
        plain.append(estimator(*arguments, None).value)
        sharp.append(estimator(*arguments, exact).value)
    first, second = torch.tensor(plain), torch.tensor(sharp)
    truth = EXACT[f"eval/{name}"]
    for values in (first, second):
        assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / 300**0.5
    assert second.std() < first.std()


def test_the_control_variate_is_never_worse_than_either_of_its_parts():
    rows = rows_of(5000, 0)
    k1 = estimators.kl_k1(CASE.log_policy[rows], CASE.log_prior[rows])
    exact = CASE.kl[rows].sum(1)
    best = estimators.kl_prior(CASE.log_policy[rows], CASE.log_prior[rows], CASE.kl[rows])
    assert best.error <= estimators.mean(k1).error
    assert best.error <= estimators.mean(exact).error


def test_k1_and_k3_have_the_same_mean_and_k3_is_never_negative():
    policy = LOG_POLICY.exp()
    k1 = estimators.kl_k1(CASE.log_policy, CASE.log_prior)
    k3 = torch.expm1(-k1) + k1
    assert float(policy @ k1) == pytest.approx(EXACT["eval/kl_prior"], abs=1e-10)
    assert float(policy @ k3) == pytest.approx(EXACT["eval/kl_prior"], abs=1e-10)
    assert float(k3.min()) >= 0
    assert float(k1.min()) < 0


def test_exact_next_token_sums_are_the_sequence_quantities():
    policy = LOG_POLICY.exp()
    assert float(policy @ CASE.kl.sum(1)) == pytest.approx(EXACT["eval/kl_prior"], abs=1e-10)
    assert float(policy @ CASE.entropy.sum(1)) == pytest.approx(EXACT["eval/entropy"], abs=1e-10)


def test_effective_sample_size_is_that_of_the_weights():
    weight = torch.tensor([1.0, 2.0, 0.0, 5.0]).double()
    zero = torch.zeros(4).double()
    mix = importance.mixture(LogProbabilities(zero, zero, weight.log()))
    assert importance.effective_sample_size(mix).value == pytest.approx(64 / 30)


def test_the_elbo_of_the_policys_samples_is_the_mixtures():
    rows = rows_of(20_000, 0)
    found = estimators.mean(CASE.log_target[rows] - LOG_POLICY[rows])
    assert abs(found.value - EXACT["eval/log_z_lower"]) < 4 * found.error


def test_the_share_of_each_proposal_is_fixed_and_adds_no_error(mixtures):
    """An influence that differs between the policy's and the prior's samples alone is no error."""
    for mix in mixtures[:3]:
        assert mix.estimate(0.0, 5.0 * mix.strata.double()).error < 1e-12


def test_where_the_regression_is_unstable_the_policys_ratios_are_scaled_to_a_mean_of_one():
    """A policy that has collapsed onto sequences of which the prior's samples hold few."""
    collapsed = problem(condition(PRIOR, REWARD / 0.03, SPACE), PRIOR, REWARD, REWARD / BETA)
    generator = torch.Generator().manual_seed(0)
    log_policy = collapsed.log_policy.sum(1)
    rows = [collapsed.draw(log, 300, generator) for log in (collapsed.log_policy, CASE.log_prior)]
    mix = importance.mixture(
        *(LogProbabilities(log_policy[r], LOG_PRIOR[r], CASE.log_target[r]) for r in rows)
    )
    assert torch.allclose(mix.share, torch.full_like(mix.share, 1 / 600))
    assert mix.mean(mix.policy_ratio) == pytest.approx(1, abs=1e-12)
    assert importance.kl_reverse(mix).value > 0
