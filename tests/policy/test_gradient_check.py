"""Gradients of the adapter are compared with plain ones before a run learns from them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from zoo import PROMPTS
from zoo import small_policy as plain_policy

from klvi.engine.kernels import activations, lora
from klvi.errors import UserError
from klvi.policy.gradient_check import check_gradients

# What is checked is klvi's own backward passes.
small_policy = partial(plain_policy, kernels="auto")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["gpt2", "llama4_text", "mamba2"])
def test_right_gradients_pass_and_leave_the_policy_as_it_was(
    model_type: str, dtype: torch.dtype
) -> None:
    policy = small_policy(model_type, dtype)
    before = policy.snapshot().adapter_parameters()
    check_gradients(policy, PROMPTS, 8)
    check_gradients(policy, PROMPTS, 8, recompute=True)
    after = policy.adapter_parameters()
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in after)


def _scaled(number: int, factor: float) -> Any:
    plain = lora._AdaptedLinear.backward

    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found = list(plain(ctx, gradient))
        # The first layer's inputs need no gradient.
        found[number] = None if found[number] is None else found[number] * factor
        return tuple(found)

    return staticmethod(backward)


@pytest.mark.parametrize(
    ("number", "factor"), [(3, 1.01), (4, 0.0), (0, 1.01)], ids=["down", "up", "inputs"]
)
def test_a_wrong_backward_pass_is_refused(
    number: int, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora._AdaptedLinear, "backward", _scaled(number, factor))
    with pytest.raises(UserError, match=r"LlamaForCausalLM .*the gradient of .*lora_.* is off"):
        check_gradients(small_policy("llama"), PROMPTS, 8)


def test_a_wrong_gelu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "CUBIC", activations.CUBIC * 1.5)
    with pytest.raises(UserError, match="the gradient of"):
        check_gradients(small_policy("gpt2"), PROMPTS, 8)


def test_a_model_that_cannot_be_trained_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no backward here\nsecond line")

    monkeypatch.setattr(lora._AdaptedLinear, "backward", staticmethod(fails))
    with pytest.raises(
        UserError, match=r"a backward pass fails \(RuntimeError: no backward here\)"
    ):
        check_gradients(small_policy("llama"), PROMPTS, 8)


def test_recomputing_brings_no_dropout_back_that_a_layer_applies_itself() -> None:
    policy = small_policy("opt", dropout=0.5)
    check_gradients(policy, PROMPTS, 8, recompute=True)
