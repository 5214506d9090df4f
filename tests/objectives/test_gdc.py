from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support import LetterReward, made_samples, train_config
from torch import Tensor
from torch.testing import assert_close

from klvi.contexts import contexts_of
from klvi.objectives.base import Prediction, Signals, Totals
from klvi.objectives.build import build_objective
from klvi.objectives.gdc import GDC, RunningMean, effective_sample_size
from klvi.samplers.mixture import log_mixture
from klvi.samples import Samples
from klvi.targets.posterior import Posterior

TARGET = Posterior(LetterReward(), 0.1)


def made_gdc(**options: object) -> GDC:
    objective = build_objective(train_config(objective={"name": "gdc", **options}).objective)
    assert isinstance(objective, GDC)
    return objective


def test_a_sample_is_judged_by_all_others_of_its_context() -> None:
    running, generator = RunningMean(), torch.Generator().manual_seed(0)
    seen: dict[int, list[float]] = {}
    for size in (1, 7, 20):
        context = torch.randint(0, 5, (size,), generator=generator)
        weights = torch.rand(size, generator=generator).double() ** 4
        found, of_all = running.update(weights.log(), context)
        here = [[] for _ in context]
        for i, row in enumerate(context.tolist()):
            here[i] = [w for j, w in enumerate(weights.tolist()) if context[j] == row and j != i]
        for i, row in enumerate(context.tolist()):
            others, own = seen.get(row, []) + here[i], float(weights[i])
            total = sum(others) + own
            assert of_all[i].exp().item() == pytest.approx(total / (len(others) + 1))
            if not others:
                assert math.isnan(found[i])
            else:
                expected = max(sum(others), own) / len(others)
                assert found[i].exp().item() == pytest.approx(expected)
        for row, weight in zip(context.tolist(), weights.tolist(), strict=True):
            seen.setdefault(row, []).append(weight)
        restored = RunningMean()
        restored.load_state_dict(running.state_dict())
        running = restored


def test_means_do_not_overflow_or_cancel() -> None:
    running = RunningMean()
    of_others, of_all = running.update(
        torch.tensor([5000.0, -5000.0, -5000.0]).double(), torch.tensor([3, 3, 3])
    )
    # Without the first the mean is tiny, and no weight is taken to exceed 2.
    assert_close(of_others, torch.tensor([5000 - math.log(2)] * 3).double())
    assert_close(of_all, torch.full((3,), 5000 - math.log(3)).double())


def test_effective_sample_size() -> None:
    assert effective_sample_size(torch.zeros(8)) == pytest.approx(8)
    assert effective_sample_size(torch.tensor([0.0, -math.inf])) == pytest.approx(1)
    assert effective_sample_size(torch.tensor([-math.inf, -math.inf])) == 0
    assert effective_sample_size(torch.tensor([2000.0, 2000.0]).double()) == pytest.approx(2)


def test_weights_are_relative_to_the_mean_of_the_others() -> None:
    samples = made_samples([2, 3, 4, 1])
    signals, statistics = made_gdc().signals(samples, TARGET, samples.log_prior_sequence)
    weights = (samples.log_prior_sequence - samples.log_policy_sequence).exp()
    expected = torch.minimum(3 * weights / (weights.sum() - weights), torch.tensor(3.0))
    assert_close(signals["weights"], expected)
    assert statistics["gdc/log_z"] == pytest.approx(weights.mean().log().item(), abs=1e-5)
    assert 1 <= statistics["gdc/ess"] <= 4


def test_a_sample_without_another_of_its_context_says_nothing() -> None:
    samples = replace(made_samples([2, 3, 4, 1]), contexts=contexts_of(["a", "b", "b", "c"]))
    objective = made_gdc()
    signals, _ = objective.signals(samples, TARGET, samples.log_prior_sequence)
    gradient = gradient_of(objective, samples, signals)
    assert (gradient[[0, 3]] == 0).all()
    assert (gradient[[1, 2], 0] != 0).any()
    # A second rollout is judged by the first.
    signals, _ = objective.signals(samples, TARGET, samples.log_prior_sequence - 1.0)
    assert (gradient_of(objective, samples, signals)[[0, 3], 0] != 0).all()


@pytest.mark.parametrize("options", [{}, {"from_prior": 20}, {"epochs": 3}])
def test_at_the_target_the_gradient_is_exactly_zero(options: dict[str, object]) -> None:
    """Also where the policy, the prior and a pass differ by rounding, and from the decoder."""
    samples = replace(made_samples([3] * 40), contexts=contexts_of(list("abcde") * 8))
    noise = 1e-6 * torch.randn(40, 3, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    drawn = samples.log_policy_sequence + 0.2 * torch.randn(40, generator=generator).double()
    from_prior = int(options.pop("from_prior", 0))
    density = log_mixture(samples, from_prior) if from_prior else None
    samples = replace(samples, log_density=density if from_prior or options else drawn)
    objective = made_gdc(**options)
    for constant in (7.0, 7.0):
        log_target = samples.log_policy_sequence + noise.double().sum(1) + constant
        signals, _ = objective.signals(samples, TARGET, log_target)
        assert (gradient_of(objective, samples, signals, -noise) == 0).all()
    far, _ = made_gdc(**options).signals(
        samples, TARGET, log_target + torch.randn(40, generator=generator).double()
    )
    assert (gradient_of(objective, samples, far) != 0).any()


def gradient_of(
    objective: GDC, samples: Samples, signals: Signals, noise: Tensor | float = 0.0
) -> Tensor:
    """`(N, T)` of the loss, by the log-probabilities, which a pass gives with `noise`."""
    log_policy = (samples.log_policy + noise).requires_grad_()
    prediction = Prediction(log_policy, None, samples.mask)
    loss, _ = objective.loss(prediction, samples, signals, Totals(len(samples), 1))
    loss.backward()
    assert log_policy.grad is not None
    return log_policy.grad


def test_a_weight_is_divided_by_the_density_of_what_drew() -> None:
    samples = made_samples([2, 3, 4, 1])
    drawn = samples.log_policy_sequence + torch.tensor([0.3, -0.2, 0.1, 0.0]).double()
    signals, _ = made_gdc().signals(
        replace(samples, log_density=drawn), TARGET, samples.log_prior_sequence
    )
    weights = (samples.log_prior_sequence - drawn).exp()
    expected = torch.minimum(3 * weights / (weights.sum() - weights), torch.tensor(3.0))
    assert_close(signals["weights"], expected)


def test_a_rollout_without_any_weight_teaches_nothing_and_is_reported() -> None:
    samples = made_samples([2, 3])
    never = torch.full((2,), -math.inf)
    signals, statistics = made_gdc().signals(samples, TARGET, never)
    assert signals == {}
    assert statistics == {"gdc/log_z": -math.inf, "gdc/ess": 0.0, "gdc/zero_weights": 1.0}


def test_a_prompt_without_weight_does_not_move_the_policy() -> None:
    samples = replace(made_samples([2, 2, 2, 2]), contexts=contexts_of(["a", "a", "b", "b"]))
    log_target = samples.log_policy_sequence.clone()
    log_target[2:] = -math.inf
    objective = made_gdc()
    signals, _ = objective.signals(samples, TARGET, log_target)
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
        signals, _ = objective.signals(samples, TARGET, samples.log_policy_sequence)
        log_policy = samples.log_policy.clone().requires_grad_()
        prediction = Prediction(log_policy, None, samples.mask)
        loss, _ = objective.loss(prediction, samples, signals, Totals(3, 9))
        loss.backward()
        assert log_policy.grad is not None
        assert_close(log_policy.grad.sum(0)[0], torch.tensor(expected), atol=1e-6, rtol=0)


def test_its_state_survives() -> None:
    samples = made_samples([3] * 8)
    objective = made_gdc()
    objective.signals(samples, TARGET, samples.log_prior_sequence)
    other = made_gdc()
    other.load_state_dict(objective.state_dict())
    assert other.state_dict() == objective.state_dict()
    other.reset()
    assert other.state_dict() == made_gdc().state_dict()


def test_weights_of_a_mixture_are_bounded_and_its_baseline_is_of_the_policy() -> None:
    samples = made_samples([2, 3, 4, 1])
    samples = replace(samples, log_density=log_mixture(samples, 1))
    objective = made_gdc()
    signals, statistics = objective.signals(samples, TARGET, samples.log_prior_sequence)
    policy, prior = samples.log_policy_sequence.exp(), samples.log_prior_sequence.exp()
    proposal = 0.75 * policy + 0.25 * prior
    weights = prior / proposal
    expected = torch.minimum(3 * weights / (weights.sum() - weights), torch.tensor(3.0))
    assert_close(signals["weights"], expected)
    # Nothing is weighed by more than the inverse of the prior's share.
    assert statistics["gdc/log_z"] <= math.log(4)
    ratio = policy / proposal
    ratio = torch.minimum(3 * ratio / (ratio.sum() - ratio), torch.tensor(3.0))
    gradient = gradient_of(objective, samples, signals)[:, 0].double()
    assert_close(gradient, (ratio - expected) / 4)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_weights_by_the_others_point_to_the_target(size: int) -> None:
    """The mean of −(w − 1)·∇log π over groups is a descent direction of KL(p‖π), towards p.

    For a softmax over 6 sequences, over 20,000 groups, each coordinate known to 0.01.
    """
    generator = torch.Generator().manual_seed(0)
    policy = torch.randn(6, generator=generator).double().softmax(0)
    target = (policy.log() + 0.5 * torch.randn(6, generator=generator)).softmax(0)
    groups = 20_000
    rows = torch.multinomial(policy, groups * size, replacement=True, generator=generator)
    context = torch.arange(groups).repeat_interleave(size)
    log_weights = (target / policy).log()[rows] + 3.0
    log_z, _ = RunningMean().update(log_weights, context)
    gain = (log_weights - log_z).exp() - 1
    onehot = torch.nn.functional.one_hot(rows, 6).double()
    step = (gain[:, None] * (onehot - policy)).mean(0)
    exact = target - policy
    cosine = float(step @ exact / (step.norm() * exact.norm()))
    assert cosine > {2: 0.93, 4: 0.97, 8: 0.99}[size]
