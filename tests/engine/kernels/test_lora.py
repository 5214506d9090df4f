"""The fused LoRA layer against peft's own, values and gradients."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from klvi.engine.kernels.lora import fuse_lora
from klvi.engine.merging import merged_weight


class Model(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first: nn.Module = Conv1D(6, 4) if kind == "conv1d" else nn.Linear(4, 6)
        self.second = nn.Linear(6, 3, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(inputs)))


def adapted(kind: str) -> nn.Module:
    torch.manual_seed(0)
    config = LoraConfig(
        r=2, lora_alpha=3, target_modules=["first", "second"], fan_in_fan_out=kind == "conv1d"
    )
    base = Model(kind)
    if kind == "conv1d":
        config.target_modules = {"first"}
    model = get_peft_model(base, config).double().eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    return model


def run(model: nn.Module, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    output = model(inputs)
    model.zero_grad()
    output.square().sum().backward()
    return output.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["conv1d", "linear"])
@pytest.mark.parametrize("tokens", [1, 5], ids=["few", "many"])
def test_values_and_gradients_are_those_of_peft(kind: str, tokens: int) -> None:
    """With few tokens the adapter is multiplied by itself, with many it is merged first."""
    plain, fused = adapted(kind), adapted(kind)
    fuse_lora(fused)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(2, tokens, 4, dtype=torch.float64, generator=generator)
    mine, theirs = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    output, gradients = run(fused, mine)
    expected, expected_gradients = run(plain, theirs)
    assert_close(output, expected)
    assert gradients.keys() == expected_gradients.keys()
    assert sum("lora_" in name for name in gradients) >= 2
    for name, gradient in gradients.items():
        assert_close(gradient, expected_gradients[name])
    assert_close(mine.grad, theirs.grad)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["conv1d", "linear"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_merged_weight_is_that_of_peft(kind: str, dtype: torch.dtype) -> None:
    model = adapted(kind)
    layer = model.base_model.model.first
    base = layer.get_base_layer()
    base.weight.data = base.weight.data.to(dtype)
    expected = base.weight + layer.get_delta_weight("default").to(dtype)
    found = merged_weight(layer)
    assert found.data_ptr() != base.weight.data_ptr()
    assert_close(found, expected.detach())


def test_a_disabled_adapter_is_the_base_layer() -> None:
    model = adapted("linear")
    inputs = torch.randn(3, 4, dtype=torch.float64)
    with model.disable_adapter():
        expected = model(inputs)
    fuse_lora(model)
    with model.disable_adapter():
        assert torch.equal(model(inputs), expected)
    assert not torch.allclose(model(inputs), expected)
