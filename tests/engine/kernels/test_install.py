"""The switch: which of klvi's kernels a model computes with."""

from __future__ import annotations

import pytest
import torch
from support import disturb
from torch import nn
from torch.testing import assert_close
from zoo import PROMPTS, small_policy

from klvi.engine.kernels.activations import TanhGELU
from klvi.engine.kernels.install import install
from klvi.engine.kernels.lora import FusedLora
from klvi.engine.kernels.products import FrozenConv1D, FrozenLinear, has_onednn
from klvi.engine.micro_batch import MicroBatch
from klvi.policy.policy import Policy
from klvi.samples import Completions

OWN = (TanhGELU, FusedLora, FrozenConv1D, FrozenLinear)
# Layers of 2^18 numbers, for which oneDNN pays.
WIDE = {"n_embd": 128, "n_inner": 2048}


def own_kernels(model: nn.Module) -> set[type[nn.Module]]:
    return {type(module) for module in model.modules() if isinstance(module, OWN)}


def log_probs(policy: Policy) -> torch.Tensor:
    prompts, lengths = policy.prior.encode(PROMPTS)
    tokens = torch.tensor([[5, 6, 2], [7, 8, 9], [9, 2, 0]])
    batch = Completions(prompts, lengths, tokens, torch.tensor([3, 3, 2]))
    return MicroBatch.of(batch).forward(policy.model).log_probs()


def test_none_leaves_transformers_and_pefts_modules() -> None:
    policy = small_policy("gpt2", kernels="none", **WIDE)
    assert own_kernels(policy.model) == set()
    assert own_kernels(policy.prior.model) == set()


def test_auto_puts_in_all_that_the_model_has_a_place_for() -> None:
    policy = small_policy("gpt2", kernels="auto", **WIDE)
    products = {FrozenConv1D} if has_onednn(policy.model.get_input_embeddings().weight) else set()
    assert own_kernels(policy.prior.model) == {TanhGELU} | products
    assert {TanhGELU, FusedLora} <= own_kernels(policy.model)
    assert own_kernels(policy.prior.plain) == set()


def test_a_second_call_changes_nothing() -> None:
    policy = small_policy("gpt2", kernels="auto", **WIDE)
    before = [(name, type(module)) for name, module in policy.model.named_modules()]
    weights = [parameter.data_ptr() for parameter in policy.model.parameters()]
    install(policy.model)
    assert before == [(name, type(module)) for name, module in policy.model.named_modules()]
    assert weights == [parameter.data_ptr() for parameter in policy.model.parameters()]


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_kernels_change_rounding_alone(model_type: str) -> None:
    sizes = WIDE if model_type == "gpt2" else {}
    plain, fast = (
        log_probs(disturb(small_policy(model_type, kernels=kernels, **sizes), 0.1))
        for kernels in ("none", "auto")
    )
    assert_close(fast, plain, atol=1e-4, rtol=0)
