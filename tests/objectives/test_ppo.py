from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support import LetterReward, made_samples, train_config
from torch import Tensor
from torch.testing import assert_close

from klvi.objectives.base import Prediction, Signals, Totals
from klvi.objectives.build import build_objective
from klvi.objectives.ppo import (
    KL,
    clipped_policy_loss,
    clipped_value_loss,
    generalised_advantages,
    penalised_rewards,
    renewed_penalty,
    whiten,
)
from klvi.samples import Samples
from klvi.targets.base import Target
from klvi.targets.posterior import Posterior

TARGET = Posterior(LetterReward(), 0.3)


def test_rewards_add_up_to_the_penalised_reward() -> None:
    samples = made_samples([1, 3, 4])
    rewards = penalised_rewards(
        samples.log_policy, samples.log_prior, samples.reward, samples.lengths, beta=0.3
    )
    penalised = samples.reward + 0.3 * (samples.log_prior_sequence - samples.log_policy_sequence)
    assert_close(rewards.sum(1), penalised)
    unpenalised = penalised_rewards(
        samples.log_policy, samples.log_prior, samples.reward, samples.lengths, beta=0.0
    )
    assert (unpenalised.nonzero()[:, 1] == samples.lengths - 1).all()


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_advantages_are_the_exponential_average_of_n_step_ones(gae_lambda: float) -> None:
    samples = made_samples([1, 3, 5])
    rewards = penalised_rewards(
        samples.log_policy, samples.log_prior, samples.reward, samples.lengths, beta=0.3
    )
    assert samples.values is not None
    advantages = generalised_advantages(rewards, samples.values, samples.mask, gae_lambda)
    for i, length in enumerate(samples.lengths.tolist()):
        values = [*samples.values[i, :length].tolist(), 0.0]
        for t in range(length):
            errors = [rewards[i, s] + values[s + 1] - values[s] for s in range(t, length)]
            expected = sum(gae_lambda**k * e for k, e in enumerate(errors))
            assert_close(advantages[i, t], torch.as_tensor(expected), atol=1e-5, rtol=0)
    assert (advantages[~samples.mask] == 0).all()


def test_whitening_sees_real_tokens_only() -> None:
    samples = made_samples([2, 4])
    values = torch.where(samples.mask, samples.log_policy, torch.tensor(1e6))
    whitened = whiten(values, samples.mask)
    kept = whitened[samples.mask]
    assert_close(kept.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert_close(kept.var(), torch.tensor(1.0), atol=1e-4, rtol=0)
    assert (whitened[~samples.mask] == 0).all()


def test_clipping_stops_the_gradient_beyond_the_trust_region() -> None:
    old = torch.zeros(1, 4)
    now = torch.tensor([[0.5, 0.5, -0.5, -0.5]], requires_grad=True)
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    loss = clipped_policy_loss(now, old, advantages, torch.ones(1, 4, dtype=torch.bool), clip=0.2)
    loss.backward()
    assert now.grad is not None
    # Moved too far the wrong way is pulled back; too far the right way is left alone.
    assert (now.grad[0, [0, 3]] == 0).all()
    assert (now.grad[0, [1, 2]] != 0).all()


def test_value_loss_is_the_worse_of_plain_and_clipped() -> None:
    mask = torch.ones(1, 1, dtype=torch.bool)
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    plain = clipped_value_loss(one, zero, one, mask, clip=None)
    clipped = clipped_value_loss(one, zero, one, mask, clip=0.2)
    assert plain.item() == 0
    assert_close(clipped, torch.tensor(0.5 * 0.8**2))


def test_kl_aims_at_the_targets_potential_and_rl_at_the_reward() -> None:
    samples = made_samples([2, 3, 4])
    other = samples.with_scores({"reward": torch.tensor([0.3, -0.2, 0.9])})
    half = TARGET.tempered(0.5)

    def found(objective: str, samples: Samples, target: Target) -> Signals:
        built = build_objective(train_config(objective={"name": objective}).objective)
        return built.signals(samples, target, target.log_unnormalised(samples))[0]

    kl = found("kl", other, half)
    halved = found("kl", other.with_scores({"reward": other.reward / 2}), TARGET)
    assert_close(kl, halved)
    assert kl["beta"].tolist() == [[0.3]] * 3
    rl = found("rl", other, half)
    assert_close(rl, found("rl", other, Posterior(LetterReward(), 5.0)))
    assert rl["beta"].tolist() == [[0.0]] * 3


def test_a_loss_in_parts_is_the_loss_of_the_whole() -> None:
    samples = made_samples([1, 3, 5, 2])
    objective = build_objective(train_config(objective={"name": "kl"}).objective)
    signals, _ = objective.signals(samples, TARGET, samples.log_prior_sequence)
    totals = Totals(4, int(samples.lengths.sum()))

    def loss(rows: list[int]) -> tuple[Tensor, dict[str, float]]:
        index = torch.tensor(rows)
        part = samples.select(index)
        assert part.values is not None
        moved = (part.log_policy - 0.1) * part.mask
        prediction = Prediction(moved, part.values + 0.1, part.mask)
        chosen = {name: value[index] for name, value in signals.items()}
        return objective.loss(prediction, part, chosen, totals)

    whole, statistics = loss([0, 1, 2, 3])
    first, second = loss([0, 1]), loss([2, 3])
    assert_close(whole, first[0] + second[0])
    for name, value in statistics.items():
        assert value == pytest.approx(first[1][name] + second[1][name], abs=1e-6)


def test_passes_stop_at_the_kl_limit() -> None:
    config = train_config(objective={"name": "kl", "kl_stop": 0.01}).objective
    objective = build_objective(config)
    assert objective.stop_early({"policy/approxkl_avg": 0.02})
    assert not objective.stop_early({"policy/approxkl_avg": 0.005})
    without = build_objective(train_config().objective)
    assert not without.stop_early({"policy/approxkl_avg": 1e9})


def test_a_renewed_penalty_is_that_of_the_present_policy() -> None:
    """The advantage of a later pass is what a rollout of the policy's present weights gives."""
    samples = made_samples([1, 3, 4])
    objective = build_objective(train_config(objective={"name": "kl"}).objective)
    signals, _ = objective.signals(samples, TARGET, samples.log_prior_sequence)
    moved = samples.log_policy + 0.2 * samples.mask
    present, _ = objective.signals(
        replace(samples, log_policy=moved), TARGET, samples.log_prior_sequence
    )
    found = renewed_penalty(signals["advantages"], moved, samples.log_policy, samples.mask, 0.3)
    assert_close(found, present["advantages"], atol=1e-5, rtol=0)
    assert not torch.allclose(found, signals["advantages"])


def test_the_first_pass_is_plain_ppo() -> None:
    samples = made_samples([2, 3])
    values = torch.randn_like(samples.log_policy)
    same = samples.log_policy
    found = renewed_penalty(values, same, same, samples.mask, 0.3)
    assert torch.equal(found, values)


@pytest.mark.parametrize("renew", [True, False])
def test_later_passes_renew_the_penalty_where_asked(renew: bool) -> None:
    samples = made_samples([2, 3])
    settings = {"name": "kl", "renew_penalty": renew, "clip": 10.0}
    objective = build_objective(train_config(objective=settings).objective)
    signals, _ = objective.signals(samples, TARGET, samples.log_prior_sequence)
    moved = (samples.log_policy + 0.1 * samples.mask).requires_grad_()
    assert samples.values is not None
    prediction = Prediction(moved, samples.values, samples.mask)
    loss, _ = objective.loss(prediction, samples, signals, Totals(2, 5))
    loss.backward()
    penalty = 0.3 * 0.1 * samples.lengths[:, None] if renew else 0.0
    advantages = (signals["advantages"] - penalty) * samples.mask
    assert moved.grad is not None
    expected = -advantages * (0.1 * samples.mask).exp() / 5
    assert_close(moved.grad, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 100.0), (50.0, -3000.0)])
def test_the_offset_and_the_scale_of_rewards_change_nothing_that_is_learned(
    factor: float, shift: float
) -> None:
    samples = replace(made_samples([2, 3, 4]), values=torch.zeros(3, 4))
    reward = torch.tensor([0.0, 10.0, 25.0]).double()
    found = []
    for f, c in ((1.0, 0.0), (factor, shift)):
        target = Posterior(LetterReward(), 0.5 * f)
        ppo = KL()
        signals, _ = ppo.signals(
            samples.with_scores({"reward": f * reward + c}), target, torch.zeros(3)
        )
        restored = KL()
        restored.load_state_dict(ppo.state_dict())
        later, _ = restored.signals(
            samples.with_scores({"reward": f * reward + f + c}), target, torch.zeros(3)
        )
        found.append((signals["advantages"], later["advantages"]))
    assert_close(found[0], found[1])
    assert found[0][0].abs().max() < 3
