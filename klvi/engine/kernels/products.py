"""Large matrix products of frozen weights on a CPU, by oneDNN.

Of torch's two libraries for float32 products, the one behind `torch.mm` falls to half its speed on
some processors where a matrix is as wide as a vocabulary; oneDNN, which torch calls for other
precisions, keeps it: without it an update at GPT-2's size takes 10% longer. oneDNN's product of
float32 has no public name in torch, hence the private operator; where it is missing, the public one
takes its place.
"""

from __future__ import annotations

from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

# Weights below which finding oneDNN's kernel for yet another shape costs more than it saves.
MIN_WEIGHTS = 2**18
# How far from a linear map, relatively, a quantised or low-precision one may be.
QUANTISED = 0.05


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`inputs·weightᵀ + bias` `(…, out)`, without gradient.

    Args:
        inputs: `(…, in)`.
        weight: `(out, in)`; a transposed view is as good as the weight.
        bias: `(out,)`.
    """
    if _pays(weight) and inputs.dtype == weight.dtype:
        return onednn_linear(weight, bias, inputs)
    return nn.functional.linear(inputs, weight, bias)


def onednn_linear(weight: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
    """`product` by oneDNN, of a `weight` for which there is `has_onednn`."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return result


def has_onednn(weight: Tensor) -> bool:
    """Whether oneDNN multiplies with `weight`: torch has it, and it is of float32 on a CPU."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _pays(weight: Tensor) -> bool:
    return has_onednn(weight) and weight.numel() >= MIN_WEIGHTS


def fuse_linear(model: nn.Module) -> None:
    """Let the large linear layers of `model` compute by `product` while they are frozen."""
    kinds = {nn.Linear: FrozenLinear, Conv1D: FrozenConv1D}
    for module in model.modules():
        if type(module) in kinds and _pays(cast(Tensor, module.weight)):
            module.__class__ = kinds[type(module)]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return product(gradient, weight.T), None, None


class FrozenLinear(nn.Linear):
    """`nn.Linear`, computing by `product` while its weight needs no gradient."""

    def forward(self, input: Tensor) -> Tensor:
        """`(…, out)` of `(…, in)`."""
        if self.weight.requires_grad:
            return super().forward(input)
        output: Tensor = _Product.apply(input, self.weight, self.bias)
        return output


class FrozenConv1D(Conv1D):
    """GPT-2's linear layer, whose weight is `(in, out)`, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        """`(…, out)` of `(…, in)`."""
        if self.weight.requires_grad:
            return cast(Tensor, super().forward(x))
        output: Tensor = _Product.apply(x, self.weight.T, self.bias)
        return output


def is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is a linear map and nothing more: no subclass with a forward of its own.

    Models derive routers, scaled and quantised layers from `nn.Linear`.
    """
    forwards = {nn.Linear.forward, Conv1D.forward, FrozenLinear.forward, FrozenConv1D.forward}
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return type(module).forward in forwards and "forward" not in vars(module) and not any(hooks)


@torch.no_grad()
def is_linear_map(module: nn.Module) -> bool:
    """Whether a layer computes inputs·weightᵀ + bias, in whatever words, or quantised."""
    if is_plain_linear(module):
        return True
    weight, size = getattr(module, "weight", None), getattr(module, "in_features", None)
    if not isinstance(weight, Tensor) or not isinstance(size, int):
        return False
    dtype = weight.dtype if weight.is_floating_point() else torch.get_default_dtype()
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 1, size, generator=generator).to(weight.device, dtype)
    try:
        together, nothing = module(one + other), module(torch.zeros_like(one))
        expected = module(one) + module(other) - nothing
        if weight.is_floating_point():
            expected = nn.functional.linear(one + other, weight, getattr(module, "bias", None))
    except Exception:  # a layer that takes or gives something else
        return False
    error = (together - expected).float().norm()
    return together.shape == expected.shape and bool(error <= QUANTISED * expected.float().norm())
