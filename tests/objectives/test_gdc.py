from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support import made_samples, train_config
from torch.testing import assert_close

from klvi.contexts import contexts_of
from klvi.objectives import GDC, Prediction, Totals, build_objective
from klvi.objectives.gdc import RunningLogZ, effective_sample_size


def made_gdc(**options: object) -> GDC:
    objective = build_objective(train_config(objective={"name": "gdc", **options}).objective, 0.1)
    assert isinstance(objective, GDC)
    return objective


def test_log_z_is_the_average_over_all_samples_of_a_prompt() -> None:
    running = RunningLogZ()
    first = torch.tensor([1.0, 3.0, 0.5]).log().double()
    second = torch.tensor([2.0, 0.0]).log().double()
    assert_close(
        running.update(first, torch.tensor([0, 0, 1])),
        torch.tensor([2.0, 2.0, 0.5]).log().double(),
    )
    restored = RunningLogZ()
    restored.load_state_dict(running.state_dict())
    assert_close(
        restored.update(second, torch.tensor([0, 1])),
        torch.tensor([2.0, 0.25]).log().double(),
    )


def test_log_z_does_not_overflow() -> None:
    running = RunningLogZ()
    log_z = running.update(torch.tensor([5000.0, -5000.0]).double(), torch.tensor([0, 0]))
    assert_close(log_z, torch.full((2,), 5000 - math.log(2)).double())


def test_effective_sample_size() -> None:
    assert effective_sample_size(torch.zeros(8)) == pytest.approx(8)
    assert effective_sample_size(torch.tensor([0.0, -math.inf])) == pytest.approx(1)
    assert effective_sample_size(torch.tensor([-math.inf, -math.inf])) == 0
    assert effective_sample_size(torch.tensor([2000.0, 2000.0]).double()) == pytest.approx(2)


def test_weights_average_to_one_in_the_first_rollout() -> None:
    samples = made_samples([2, 3, 4, 1])
    signals, statistics = made_gdc().signals(samples, samples.log_prior_sequence)
    assert_close(signals["weights"].mean(), torch.tensor(1.0))
    log_weights = samples.log_prior_sequence - samples.log_policy_sequence
    assert statistics["gdc/log_z"] == pytest.approx(log_weights.exp().mean().log().item(), abs=1e-5)
    assert 1 <= statistics["gdc/ess"] <= 4


def test_a_rollout_without_any_weight_teaches_nothing_and_is_reported() -> None:
    samples = made_samples([2, 3])
    never = torch.full((2,), -math.inf)
    signals, statistics = made_gdc().signals(samples, never)
    assert signals == {}
    assert statistics == {"gdc/log_z": -math.inf, "gdc/ess": 0.0, "gdc/zero_weights": 1.0}


def test_a_prompt_without_weight_does_not_move_the_policy() -> None:
    samples = replace(made_samples([2, 2, 2, 2]), contexts=contexts_of(["a", "a", "b", "b"]))
    log_target = samples.log_policy_sequence.clone()
    log_target[2:] = -math.inf
    objective = made_gdc()
    signals, _ = objective.signals(samples, log_target)
    log_policy = samples.log_policy.clone().requires_grad_()
    prediction = Prediction(log_policy, None, samples.mask)
    loss, _ = objective.loss(prediction, samples, signals, Totals(4, 8))
    loss.backward()
    assert log_policy.grad is not None
    assert torch.isfinite(log_policy.grad).all()
    assert (log_policy.grad[2:] == 0).all()


def test_the_baseline_takes_out_the_mean() -> None:
    samples = made_samples([2, 3, 4])
    for baseline, expected in ((True, 0.0), (False, -1.0)):
        objective = made_gdc(baseline=baseline)
        # The target is the policy: every weight is 1.
        signals, _ = objective.signals(samples, samples.log_policy_sequence)
        log_policy = samples.log_policy.clone().requires_grad_()
        prediction = Prediction(log_policy, None, samples.mask)
        loss, _ = objective.loss(prediction, samples, signals, Totals(3, 9))
        loss.backward()
        assert log_policy.grad is not None
        assert_close(log_policy.grad.sum(0)[0], torch.tensor(expected), atol=1e-6, rtol=0)


def test_a_mixture_weighs_every_sample_by_both_of_its_parts() -> None:
    samples = made_samples([2, 3, 4, 1])
    objective = made_gdc(proposal="mixture", prior_share=0.25)
    assert [objective.prior_rows(count) for count in (4, 3, 8)] == [1, 0, 2]
    signals, statistics = objective.signals(samples, samples.log_prior_sequence)
    policy, prior = samples.log_policy_sequence.exp(), samples.log_prior_sequence.exp()
    proposal = 0.75 * policy + 0.25 * prior
    assert_close(signals["log_proposal"].exp(), proposal)
    assert_close(signals["weights"], (prior / proposal) / (prior / proposal).mean())
    # Nothing is weighed by more than the inverse of the prior's share.
    assert statistics["gdc/log_z"] <= math.log(4)
    log_policy = samples.log_policy.clone().requires_grad_()
    prediction = Prediction(log_policy, None, samples.mask)
    loss, _ = objective.loss(prediction, samples, signals, Totals(4, 10))
    loss.backward()
    assert log_policy.grad is not None
    assert_close(log_policy.grad[:, 0], (policy / proposal - signals["weights"]) / 4)


def test_a_rollout_too_small_for_a_mixture_is_the_policys_own() -> None:
    samples = made_samples([2])
    signals, _ = made_gdc(proposal="mixture").signals(samples, samples.log_prior_sequence)
    assert_close(signals["log_proposal"], samples.log_policy_sequence)


@pytest.mark.parametrize("divergence", ["kl", "tv"])
def test_the_proposal_is_renewed_when_the_policy_is_nearer(divergence: str) -> None:
    samples = made_samples([3] * 50)
    log_target = samples.log_prior_sequence
    objective = made_gdc(proposal="adaptive", divergence=divergence)
    assert objective.adaptive_proposal
    proposal = samples.log_policy_sequence
    normalised = log_target - (log_target - proposal).exp().mean().log()
    nearer = proposal + 0.5 * (normalised - proposal)
    further = proposal - 0.5 * (normalised - proposal)
    assert not objective.refresh_proposal(samples, log_target, further)
    # The evidence against the policy has to be outweighed first.
    outcomes = [objective.refresh_proposal(samples, log_target, nearer) for _ in range(5)]
    assert any(outcomes)
    assert made_gdc(proposal="adaptive", divergence=divergence).refresh_proposal(
        samples, log_target, nearer
    )


def test_without_any_weight_the_proposal_stays() -> None:
    samples = made_samples([3] * 4)
    never = torch.full((4,), -math.inf)
    objective = made_gdc(proposal="adaptive")
    assert not objective.refresh_proposal(samples, never, samples.log_policy_sequence)


def test_its_state_survives() -> None:
    samples = made_samples([3] * 8)
    objective = made_gdc(proposal="adaptive")
    objective.signals(samples, samples.log_prior_sequence)
    objective.refresh_proposal(samples, samples.log_prior_sequence, samples.log_policy_sequence - 1)
    other = made_gdc(proposal="adaptive")
    other.load_state_dict(objective.state_dict())
    assert other.state_dict() == objective.state_dict()
    assert other.state_dict()["gain"] < 0
