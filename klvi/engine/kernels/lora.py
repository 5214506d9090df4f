"""LoRA's forward and backward pass as six matrix products and nothing elementwise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from klvi.engine.kernels.products import is_plain_linear, product


class _AdaptedLinear(torch.autograd.Function):
    """y = x·W + b + s·(x·Aᵀ)·Bᵀ with W and b frozen (Hu et al. 2021, arXiv 2106.09685, section 4).

    Autograd of the plain formula scales and adds tensors of the output's size, forth and back;
    here the products accumulate in place, or, where the weights are fewer than the activations,
    the two small matrices are added into W first.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scaling: float,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight, down, up)
        ctx.merge = 2 * weight.numel() < len(inputs) * sum(weight.shape)
        if ctx.merge:
            weight = _merged(weight, down, up, scaling)
        output = product(inputs, weight.T, bias)
        if not ctx.merge:
            output.addmm_(inputs @ down.T, up.T, alpha=scaling)
        ctx.scaling = scaling
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, down, up = ctx.saved_tensors
        low, through = flat @ down.T, (output @ up).mul_(ctx.scaling)
        inputs = None
        if ctx.needs_input_grad[0]:
            if ctx.merge:
                inputs = product(output, _merged(weight, down, up, ctx.scaling))
            else:
                inputs = product(output, weight).addmm_(through, down)
        return (
            inputs,
            None,
            None,
            through.T @ flat,
            (low.T @ output).mul_(ctx.scaling).T,
            None,
        )


def _merged(weight: Tensor, down: Tensor, up: Tensor, scaling: float) -> Tensor:
    return torch.addmm(weight, down.T, up.T, alpha=scaling)


class FusedLora(LoraLinear):
    """peft's LoRA layer on a linear map, computing through `_AdaptedLinear`.

    With more than one precision it computes as peft does.
    """

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """`(…, out)` of `(…, in)`."""
        layer: Any = self  # peft's attributes are typed in part
        base = layer.get_base_layer()
        if self.disable_adapters:
            return cast(Tensor, base(x))
        (name,) = self.active_adapters
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        if not x.dtype == base.weight.dtype == down.dtype:
            plain: Any = super().forward
            return cast(Tensor, plain(x, *arguments, **options))
        weight = base.weight if isinstance(base, Conv1D) else base.weight.T
        # Rows outside of the function: of a view that it returned, autograd would let nobody change
        # anything in place, as some models do with a layer's output.
        flat = x.reshape(-1, x.shape[-1])
        adapted: Any = _AdaptedLinear
        rows: Tensor = adapted.apply(flat, weight, base.bias, down, up, self.scaling[name])
        return rows.view(*x.shape[:-1], rows.shape[-1])


def fuse_lora(model: nn.Module) -> None:
    """Let every plain LoRA layer of `model` compute through `_AdaptedLinear`."""
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if type(module) is LoraLinear and is_plain_linear(module.get_base_layer()):
            module.__class__ = FusedLora
