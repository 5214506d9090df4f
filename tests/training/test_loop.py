"""The loop's own promises: repeated sequences, and the path to the target."""

from __future__ import annotations

import pytest
import torch
from support import assembled, disturb, train_config
from torch import Tensor
from torch.testing import assert_close

from klvi.engine.graph_engine import GraphEngine
from klvi.errors import UserError
from klvi.objectives.base import Signals, Statistics
from klvi.samples import Completions, Samples
from klvi.targets.base import Target
from klvi.training.loop import DivergenceError, Loop


def gradients(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], Statistics]:
    """Of one minibatch, without a step."""
    disturb(loop.policy)
    samples = loop.roll_out(loop.target).samples
    signals, _ = loop.objective.signals(samples, loop.target, loop.target.log_unnormalised(samples))
    monkeypatch.setattr(loop.optimisation, "step", lambda: 1.0)
    statistics = loop.learn_minibatch(list(loop.parts(samples, signals)), entropy=True)
    return [p.grad for p in loop.policy.parameters() if p.grad is not None], statistics


def all_apart(samples: Completions) -> tuple[Tensor, Tensor]:
    rows = torch.arange(len(samples))
    return rows, rows


@pytest.mark.parametrize("objective", ["kl", "gdc"])
def test_sequences_that_repeat_count_as_often_as_they_occur(
    objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train_config(
        objective={"name": objective}, batch_size=256, optim={"micro_batch_tokens": 100}
    )
    together, statistics = gradients(assembled(config), monkeypatch)
    monkeypatch.setattr(Completions, "distinct_inputs", all_apart)
    apart, expected = gradients(assembled(config), monkeypatch)
    assert len(together) == len(apart) > 0
    for ours, plain in zip(together, apart, strict=True):
        assert (ours - plain).norm() <= 1e-4 * plain.norm()
    assert statistics == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_annealing_ends_at_the_target_itself() -> None:
    loop = assembled(train_config(updates=10, anneal=0.4))
    shares = [loop.annealed_share(update) for update in range(10)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 7])
    plain = assembled(train_config(updates=10))
    assert {plain.annealed_share(update) for update in range(10)} == {1.0}


@pytest.mark.parametrize("objective", ["kl", "gdc"])
def test_objectives_see_the_target_of_the_moment(
    objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = assembled(train_config(objective={"name": objective}, updates=4, anneal=1.0))
    seen: list[tuple[Samples, Target, Tensor]] = []
    moved: list[int] = []
    signals = loop.objective.signals

    def spy(samples: Samples, target: Target, log_target: Tensor) -> tuple[Signals, Statistics]:
        seen.append((samples, target, log_target))
        return signals(samples, target, log_target)

    monkeypatch.setattr(loop.objective, "signals", spy)
    monkeypatch.setattr(loop.objective, "reset", lambda: moved.append(loop.update))
    records = [loop.step() for _ in range(4)]
    assert [record["anneal/share"] for record in records] == [0.25, 0.5, 0.75, 1.0]
    for (samples, target, log_target), record in zip(seen, records, strict=True):
        potential = record["anneal/share"] * samples.reward / loop.target.beta
        assert_close(target.log_potential(samples), potential)
        assert_close(log_target, samples.log_prior_sequence + potential)
    assert moved == [0, 1, 2, 3]


@pytest.mark.parametrize("objective", ["kl", "gdc"])
def test_every_pass_over_a_rollout_is_a_step(
    objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = assembled(train_config(objective={"name": objective, "epochs": 3}))
    steps: list[float] = []
    step = loop.optimisation.step
    monkeypatch.setattr(loop.optimisation, "step", lambda: steps.append(step()) or steps[-1])
    loop.step()
    assert len(steps) == 3


def test_the_parts_of_a_minibatch_hold_each_sequence_once() -> None:
    config = train_config(
        objective={"name": "gdc"}, batch_size=60, optim={"micro_batch_tokens": 40}
    )
    loop = assembled(config)
    samples = loop.roll_out(loop.target).samples
    signals = {"row": torch.arange(60), "token": samples.tokens}
    parts = list(loop.parts(samples, signals))
    assert len(parts) > 1
    assert sorted(torch.cat([own["row"] for _, _, own in parts]).tolist()) == list(range(60))
    for batch, chosen, own in parts:
        assert len(batch.inputs) < len(batch.tokens)
        assert torch.equal(batch.rows, own["row"])
        assert torch.equal(batch.tokens, chosen.tokens)
        assert torch.equal(own["token"], chosen.tokens)
        assert chosen.texts == [samples.texts[row] for row in own["row"].tolist()]


def test_graphs_decode_for_a_critic_and_are_not_scored_again() -> None:
    loop = assembled(train_config(batch_size=32))
    disturb(loop.policy)
    loop.policy.engine = GraphEngine()
    assert loop.policy.scores_while_decoding
    samples = loop.roll_out(loop.target).samples
    assert samples.values is not None
    assert_close(samples.log_policy, loop.policy.log_probs(samples), atol=3e-5, rtol=0)


def test_without_cuda_graphs_are_refused() -> None:
    config = train_config(device="auto", max_new_tokens=2, engine={"name": "graph"})
    if torch.cuda.is_available():
        assert assembled(config).policy.engine.name == "graph"
        return
    with pytest.raises(UserError, match=r"engine=graph: it needs CUDA, .* is on a CPU"):
        assembled(config)


def test_the_learning_rate_is_blamed_only_where_it_was_used() -> None:
    config = train_config(reward={"name": "letters"})
    loop = assembled(config.model_copy(update={"beta": 1e300}))
    message = r"update 1: the gradient is not finite: scale the reward or beta=1e\+300, or use"
    with pytest.raises(DivergenceError, match=message):
        loop.step()
    loop = assembled(train_config(objective={"name": "gdc"}, optim={"lr": 1e12}, updates=9))
    with pytest.raises(DivergenceError, match=r"no longer finite: lower optim\.lr=1e\+12"):
        loop.run()
