"""Large frozen layers by oneDNN compute what torch's own do, values and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from klvi.engine.kernels.products import (
    MIN_WEIGHTS,
    FrozenConv1D,
    FrozenLinear,
    fuse_linear,
    has_onednn,
    product,
)

IN, OUT = 512, 640


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = Conv1D(OUT, IN)
        self.second = nn.Linear(OUT, IN, bias=False)
        self.small = nn.Linear(IN, MIN_WEIGHTS // IN - 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.small(torch.tanh(self.second(torch.tanh(self.first(inputs)))))


def fused() -> tuple[Model, Model]:
    """The model as it is, and with its layers fused; both frozen."""
    plain = Model().requires_grad_(False)
    other = copy.deepcopy(plain)
    fuse_linear(other)
    return plain, other


def run(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    inputs = inputs.clone().requires_grad_()
    output = model(inputs)
    output.square().sum().backward()
    assert inputs.grad is not None
    return output.detach(), inputs.grad


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, IN, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_the_same(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    plain, other = (model.to(dtype) for model in fused())
    expected, expected_gradient = run(plain, inputs(*shape).to(dtype))
    output, gradient = run(other, inputs(*shape).to(dtype))
    assert output.dtype == dtype
    assert_close(output, expected, atol=1e-5, rtol=1e-4)
    assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)


def test_large_plain_layers_alone_are_fused() -> None:
    _, other = fused()
    kinds = {name: type(module) for name, module in other.named_children()}
    assert has_onednn(other.first.weight)
    assert kinds == {"first": FrozenConv1D, "second": FrozenLinear, "small": nn.Linear}


def test_a_layer_that_is_trained_has_its_gradient() -> None:
    plain, other = (model.requires_grad_() for model in fused())
    for model in (plain, other):
        run(model, inputs(5))
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        assert two.grad is not None
        assert_close(two.grad, one.grad, atol=1e-4, rtol=1e-4)


def test_a_product_takes_transposed_weights_and_slices() -> None:
    weight, bias = torch.randn(OUT, IN), torch.randn(OUT)
    rows = inputs(9)
    expected = rows @ weight.T + bias
    transposed = weight.T.contiguous().T
    for rows_, weight_ in [
        (rows, weight),
        (rows, transposed),
        (inputs(9).T.contiguous().T, weight),
    ]:
        assert_close(product(rows_, weight_, bias), expected, atol=1e-4, rtol=1e-4)
    every_other = torch.randn(18, IN)[::2]
    assert_close(product(every_other, weight), every_other @ weight.T, atol=1e-4, rtol=1e-4)
