"""The protocol: steps in the caller's hands, and tokens that follow from a row's own numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import disturb, sample
from torch import Tensor
from torch.testing import assert_close
from zoo import PROMPTS, small_policy

from klvi.contexts import Context
from klvi.engine.base import Engine, Prefixes, View
from klvi.engine.batching import Batching
from klvi.engine.build import build_engine
from klvi.engine.graph_engine import GraphEngine
from klvi.engine.torch_engine import TorchEngine
from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.samplers.ancestral import Ancestral
from klvi.samples import Samples

# Kinds of caches, with the arrangement that each allows.
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
ARCHITECTURES: list[tuple[str, dict[str, Any], Batching]] = [
    ("gpt2", {}, Batching()),
    ("llama", {}, Batching()),
    ("mistral", {"sliding_window": 3}, Batching()),
    ("qwen3_moe", {}, Batching()),
    ("bloom", {}, Batching()),
    ("mamba2", {}, Batching(padding=False)),
    ("qwen3_5_text", LINEAR, Batching(padding=False, sharing=False)),
    ("gpt2", {}, Batching(sharing=False)),
    ("llama", {}, Batching(cache=False)),
]
architectures = pytest.mark.parametrize(
    ("model_type", "changes", "batching"), ARCHITECTURES, ids=lambda value: str(value) or None
)


@contextmanager
def view_of(model_type: str, changes: dict[str, Any], batching: Batching) -> Iterator[View]:
    policy = disturb(small_policy(model_type, **changes), 0.1)
    policy.batching = batching
    with policy.merged() as model:
        yield policy.view(model)


def prefixes_for(batching: Batching) -> Prefixes:
    tokens = torch.tensor([[1, 5, 6, 7], [1, 9, 8, 7], [1, 5, 5, 9]])
    lengths = torch.tensor([4, 3, 2]) if batching.padding else torch.full((3,), 4)
    return Prefixes(tokens, lengths)


def plain(view: View, sequence: list[int]) -> tuple[Tensor, Tensor]:
    """What one pass without a cache and without padding says of the token after `sequence`."""
    states: list[Tensor] = []
    head = view.model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    try:
        with torch.no_grad():
            logits = view.model(input_ids=torch.tensor([sequence]), use_cache=False).logits
    finally:
        hook.remove()
    return logits[0, -1].float().log_softmax(0), states[0][0, -1].float()


def assert_agrees(decoding: Any, view: View, sequences: list[list[int]]) -> None:
    log_next, hidden = decoding.log_next(), decoding.hidden()
    assert log_next.shape[0] == hidden.shape[0] == len(sequences)
    for row, sequence in enumerate(sequences):
        expected, state = plain(view, sequence)
        assert_close(log_next[row], expected, atol=3e-5, rtol=0)
        assert_close(hidden[row], state, atol=1e-4, rtol=1e-4)


@architectures
def test_steps_are_those_of_plain_passes_whatever_is_selected(
    model_type: str, changes: dict[str, Any], batching: Batching
) -> None:
    """Rows are read, appended to, repeated, reordered and left out, read in between or not."""
    with view_of(model_type, changes, batching) as view:
        prefixes = prefixes_for(batching)
        decoding = TorchEngine().start(view, prefixes, 6)
        rows = [
            row[len(row) - n :]
            for row, n in zip(prefixes.tokens.tolist(), prefixes.lengths.tolist(), strict=True)
        ]
        assert_agrees(decoding, view, rows)
        for selected, tokens in [
            ([0, 1, 2], [5, 7, 9]),
            ([2, 0, 0, 1], [8, 5, 6, 7]),
            ([3, 1], [6, 9]),
        ]:
            decoding.select(torch.tensor(selected))
            rows = [rows[i] for i in selected]
            assert_agrees(decoding, view, rows)
            decoding.append(torch.tensor(tokens))
            rows = [[*row, token] for row, token in zip(rows, tokens, strict=True)]
            assert_agrees(decoding, view, rows)
        decoding.append(torch.tensor([5, 6]))
        decoding.select(torch.tensor([1, 0, 1]))
        decoding.append(torch.tensor([7, 8, 9]))
        rows = [[*rows[i], *more] for i, more in ((1, [6, 7]), (0, [5, 8]), (1, [6, 9]))]
        assert_agrees(decoding, view, rows)


@architectures
def test_complete_is_start_driven_by_the_same_numbers(
    model_type: str, changes: dict[str, Any], batching: Batching
) -> None:
    with view_of(model_type, changes, batching) as view:
        view = replace(view, stop_token_ids=(-1,))
        prefixes = prefixes_for(batching)
        uniforms = Randomness("test", (0,), 0).uniforms(torch.arange(3), 5)
        decoded = TorchEngine().complete(view, prefixes, uniforms)
        decoding = TorchEngine().start(view, prefixes, 5)
        for t in range(5):
            cumulative = decoding.log_next().double().exp().cumsum(1)
            place = uniforms[:, t, None] * cumulative[:, -1:]
            tokens = (cumulative <= place).sum(1)
            assert torch.equal(tokens, decoded.tokens[:, t])
            decoding.append(tokens)


def test_prefixes_that_cannot_be_padded_are_refused() -> None:
    no_padding, error = Batching(padding=False), pytest.raises(ValueError, match="takes no padding")
    with view_of("mamba2", {}, no_padding) as view, error:
        TorchEngine().start(view, prefixes_for(Batching()), 2)


def test_an_engine_without_steps_says_so() -> None:
    error = pytest.raises(UserError, match=r"engine=graph: decodes whole completions")
    with view_of("gpt2", {}, Batching()) as view, error:
        GraphEngine().start(view, prefixes_for(Batching()), 2)


def test_on_a_cpu_auto_is_torch_and_graph_is_refused() -> None:
    prior = small_policy("gpt2").prior
    given = {"title": prior.name, "longest": 16, "memory": 0.3}
    assert build_engine("auto", prior.model, prior.tokenizer, **given).name == "torch"
    with pytest.raises(UserError, match=r"engine=graph: it needs CUDA"):
        build_engine("graph", prior.model, prior.tokenizer, **given)


COUNT, STEPS = 48, 8
CONTEXTS = [PROMPTS[row % 3] for row in range(COUNT)]


def drawn(
    policy: Policy, rows: list[int], engine: Engine | None = None, batch_size: int | None = None
) -> Samples:
    policy.engine = engine or TorchEngine()
    contexts: list[Context] = [CONTEXTS[row] for row in rows]
    sampler = Ancestral(STEPS, batch_size)
    return sampler.complete(policy, contexts, Randomness("test", (3,), 1), torch.tensor(rows))


def sequences(samples: Samples) -> list[list[int]]:
    pairs = zip(samples.tokens.tolist(), samples.lengths.tolist(), strict=True)
    return [tokens[:length] for tokens, length in pairs]


@pytest.mark.parametrize(
    "rows",
    [list(range(COUNT)), list(range(COUNT))[::-1], list(range(0, COUNT, 3)), [7], [5, 5, 9, 5]],
    ids=["all", "reversed", "one-prompt", "alone", "repeated"],
)
@pytest.mark.parametrize("batch_size", [None, 5, 1])
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_rows_tokens_are_its_own(
    model_type: str, rows: list[int], batch_size: int | None
) -> None:
    """Whatever is drawn beside it, in whatever order and batches."""
    policy = disturb(small_policy(model_type), 0.1)
    expected = sequences(drawn(policy, list(range(COUNT))))
    found = sequences(drawn(policy, rows, batch_size=batch_size))
    assert found == [expected[row] for row in rows]


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "batching", [Batching(sharing=False), Batching(padding=False), Batching(cache=False)], ids=str
)
def test_neither_engine_nor_arrangement_changes_tokens(model_type: str, batching: Batching) -> None:
    policy = disturb(small_policy(model_type), 0.1)
    rows = list(range(COUNT))
    expected = sequences(drawn(policy, rows))
    assert len({tuple(row) for row in expected}) > COUNT / 2
    assert sequences(drawn(policy, rows, GraphEngine())) == expected
    policy.batching = batching
    assert sequences(drawn(policy, rows)) == expected


def test_processes_that_share_a_draw_give_its_rows() -> None:
    policy = disturb(small_policy("gpt2"), 0.1)
    whole = sequences(drawn(policy, list(range(COUNT))))
    shard = Randomness("test", (3,), 1, first_row=30)
    samples = Ancestral(STEPS).complete(policy, CONTEXTS[30:], shard)
    assert sequences(samples) == whole[30:]


def test_the_policy_and_the_prior_share_the_numbers_of_a_row() -> None:
    """A policy that equals its prior draws what the prior draws."""
    policy = small_policy("gpt2")
    prior = Policy(policy.prior)
    both = [sample(each, CONTEXTS, max_new_tokens=STEPS) for each in (policy, prior)]
    assert sequences(both[0]) == sequences(both[1])
