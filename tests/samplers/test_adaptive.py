"""An earlier policy as the proposal, and when it is renewed."""

from __future__ import annotations

import math

import pytest
import torch
from support import LENGTH, LetterReward, disturb, made_samples, train_config
from torch import Tensor
from torch.testing import assert_close

from klvi.contexts import contexts_of
from klvi.policy.policy import Policy
from klvi.policy.prior import load_prior
from klvi.randomness import Randomness
from klvi.samplers.adaptive import Adaptive
from klvi.samplers.ancestral import Ancestral
from klvi.samples import Draw
from klvi.targets.posterior import Posterior

TARGET = Posterior(LetterReward(), 0.3)


def gain(adaptive: Adaptive, draw: Draw, log_target: Tensor, log_policy: Tensor) -> float:
    return adaptive.gain(draw, log_target, lambda: log_policy)


@pytest.mark.parametrize("divergence", ["kl", "tv"])
def test_a_policy_nearer_to_the_target_gains(divergence: str) -> None:
    samples = made_samples([3] * 50)
    log_target = samples.log_prior_sequence
    proposal = samples.log_policy_sequence
    normalised = log_target - (log_target - proposal).exp().mean().log()
    adaptive = Adaptive(Ancestral(LENGTH), divergence)
    nearer = gain(adaptive, Draw(samples), log_target, proposal + 0.5 * (normalised - proposal))
    further = gain(adaptive, Draw(samples), log_target, proposal - 0.5 * (normalised - proposal))
    assert further < 0 < nearer


def test_without_any_weight_nothing_is_gained() -> None:
    samples = made_samples([3] * 4)
    never = torch.full((4,), -math.inf)
    assert gain(Adaptive(Ancestral(LENGTH)), Draw(samples), never, samples.log_policy_sequence) == 0


def test_the_earlier_policy_draws_until_the_present_one_has_gained() -> None:
    config = train_config()
    policy = Policy(load_prior(config.model), config.lora)
    adaptive = Adaptive(Ancestral(LENGTH))
    contexts = contexts_of([""] * 32)

    def drawn(seed: int) -> Draw:
        return adaptive.sample(policy, TARGET, contexts, Randomness("rollout", (seed,), 1))

    first = drawn(0)
    disturb(policy, 0.5)
    assert drawn(0).samples.texts == first.samples.texts
    assert_close(drawn(0).samples.log_policy, first.samples.log_policy)
    samples = first.samples
    # A loss has to be made up for first.
    for shift in (-2.0, 1.0):
        adaptive.adapt(first, samples.log_policy_sequence, lambda s=shift: samples.log_drawn + s)
        assert drawn(0).samples.texts == first.samples.texts
    restored = Adaptive(Ancestral(LENGTH))
    restored.load_state_dict(adaptive.state_dict())
    assert restored.state_dict()["gain"] == pytest.approx(-1.0, abs=1e-5)
    adaptive.adapt(first, samples.log_policy_sequence, lambda: samples.log_drawn + 3.0)
    now = drawn(0).samples
    assert_close(now.log_policy, policy.log_probs(now), atol=1e-5, rtol=0)
    assert now.texts != first.samples.texts
    assert adaptive.state_dict()["gain"] == 0.0
