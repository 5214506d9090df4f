"""What the package's proposal, sampler and target do with weights, in small."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import pytest
import torch
from klvi_example.buffer import Buffer
from klvi_example.mean import Mean, mean_of_contexts
from klvi_example.metropolis import Metropolis
from support import LENGTH, LetterReward, disturb, made_samples
from torch import Tensor

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.samplers.ancestral import Ancestral
from klvi.samples import Draw, Samples
from klvi.targets.posterior import Posterior

ROWS = 24
CONTEXTS = [Context(row % 2, ["", "a"][row % 2]) for row in range(ROWS)]
TARGET = Posterior(LetterReward(), 0.1)


def rolled(
    buffer: Buffer, policy: Policy, update: int, contexts: Sequence[Context] = CONTEXTS
) -> Draw:
    draw = buffer.sample(policy, TARGET, contexts, Randomness("rollout", (0, update), update))
    buffer.adapt(draw, TARGET.log_unnormalised(draw.samples), lambda: torch.zeros(0))
    return draw


def texts_of(samples: Samples) -> list[tuple[str, str]]:
    return list(zip(samples.prompts, samples.texts, strict=True))


def test_a_reused_completion_is_weighed_by_what_drew_it(policy: Policy) -> None:
    buffer = Buffer(Ancestral(LENGTH), share=0.5)
    first = rolled(buffer, policy, 0)
    assert first.info == {"buffer/reused": 0.0}
    assert first.samples.log_weight.abs().max() == 0
    disturb(policy)
    second = rolled(buffer, policy, 1)
    samples, old = second.samples, second.samples.log_weight.abs() > 1e-3
    assert second.info["buffer/reused"] == old.double().mean() > 0.2
    assert second.cost.rewards == ROWS - int(old.sum())
    assert samples.contexts == CONTEXTS
    now = policy.log_probs(samples).double().sum(1)
    torch.testing.assert_close(samples.log_policy_sequence, now, atol=1e-4, rtol=0)
    # What drew the first rollout was the prior, as the policy was before it was disturbed.
    drawn = torch.where(old, samples.log_prior_sequence, now)
    torch.testing.assert_close(samples.log_drawn, drawn, atol=1e-4, rtol=0)
    torch.testing.assert_close(samples.log_weight, now - drawn, atol=1e-4, rtol=0)
    assert set(texts_of(samples.select(old.nonzero()[:, 0]))) <= set(texts_of(first.samples))
    assert torch.equal(samples.reward, LetterReward()(samples.texts, []).double())


def test_the_buffer_survives_a_checkpoint(policy: Policy) -> None:
    buffer = Buffer(Ancestral(LENGTH), size=20)
    rolled(buffer, policy, 0)
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    again = Buffer(Ancestral(LENGTH), size=20)
    again.load_state_dict(torch.load(file, weights_only=True))
    for update in (1, 2):
        disturb(policy, seed=update)
        one, other = rolled(buffer, policy, update), rolled(again, policy, update)
        assert texts_of(one.samples) == texts_of(other.samples)
        assert torch.equal(one.samples.log_drawn, other.samples.log_drawn)
        assert len(buffer.state_dict()["texts"]) == 20
    again.load_state_dict({})
    assert again.state_dict() == {}


def test_processes_choose_what_one_alone_would(policy: Policy) -> None:
    """Each has its rows of the rollout, and all keep all that is new."""
    buffer = Buffer(Ancestral(LENGTH))
    rolled(buffer, policy, 0)
    randomness = Randomness("rollout", (0, 1), 1)
    whole = buffer.sample(policy, TARGET, CONTEXTS, randomness).samples
    half = Randomness("rollout", (0, 1), 1, first_row=ROWS // 2)
    second = buffer.sample(policy, TARGET, CONTEXTS[ROWS // 2 :], half).samples
    assert texts_of(whole)[ROWS // 2 :] == texts_of(second)


def test_chains_are_replicates_and_move_towards_the_target(policy: Policy) -> None:
    draw = Metropolis(Ancestral(LENGTH), chain=4).sample(
        policy, TARGET, CONTEXTS, Randomness("evaluation", (0,), 0)
    )
    samples = draw.samples
    assert samples.log_density is None
    assert samples.contexts == CONTEXTS
    # Rows of two contexts alternate; each has chains of four.
    assert samples.replicate.tolist() == [row // 2 // 4 for row in range(ROWS)]
    repeats = [samples.texts[row] == samples.texts[row - 2] for row in range(2, ROWS)]
    assert any(repeats)
    assert not all(repeats)


def test_a_chain_leaves_for_any_weight_and_stays_at_a_larger_one(policy: Policy) -> None:
    sampler, never = Metropolis(Ancestral(LENGTH)), torch.zeros(4).double()
    weight = torch.tensor([-torch.inf, -torch.inf, 1.0, 0.5])
    states, chains, moves = sampler._walk(weight, torch.zeros(4), never)
    assert (states.tolist(), chains.tolist()) == ([0, 0, 2, 2], [0, 0, 0, 0])
    assert moves == pytest.approx(1 / 3)


def test_each_context_has_its_own_normalisation() -> None:
    values = torch.tensor([0.0, 1.0, 0.0, 1.0]).double()
    log_weight = torch.tensor([0.0, 0.0, 800.0, 800.0 + math.log(3)], dtype=torch.double)
    mean = mean_of_contexts(values, log_weight, torch.tensor([4, 4, 7, 7]))
    assert mean == pytest.approx((0.5 + 0.75) / 2)


def test_a_mean_that_no_sample_reaches_is_refused() -> None:
    with pytest.raises(UserError, match=r"^target.mean=2: the rewards of 9 samples .* choose"):
        Mean(LetterReward(), 0.1, 2.0).fitted(made_samples([3] * 9))


@pytest.mark.parametrize("mean", [0.3, 0.7])
def test_the_tilt_gives_the_wanted_mean_from_any_proposal(mean: float) -> None:
    samples: Samples = made_samples([3] * 50)
    target = Mean(LetterReward(), 0.1, mean).fitted(samples)
    log_weight: Tensor = target.log_unnormalised(samples) - samples.log_drawn
    assert mean_of_contexts(samples.reward, log_weight, samples.context) == pytest.approx(mean)
    assert target.with_state(target.state()) == target
