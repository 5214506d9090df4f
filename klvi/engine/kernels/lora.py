"""LoRA's forward and backward pass as six matrix products and nothing elementwise."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
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


def is_mergeable(layer: Any) -> bool:
    """Whether the adapters of a LoRA layer can be added to its base layer's weights."""
    base = layer.get_base_layer()
    weight = getattr(base, "weight", None)
    kinds = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return isinstance(base, kinds) and weight is not None and weight.is_floating_point()


@torch.no_grad()
def merged_weight(layer: Any) -> Tensor:
    """The base weight of a LoRA layer with its adapters added, a new tensor."""
    base, names = layer.get_base_layer(), layer.active_adapters
    weight: Tensor = base.weight.data
    down = layer.lora_A[names[0]].weight if names[0] in layer.lora_A else None
    if len(names) > 1 or down is None or down.dtype != weight.dtype:
        delta: Tensor = sum(layer.get_delta_weight(name) for name in names)
        return weight + delta.to(weight.dtype)
    up: Tensor = layer.lora_B[names[0]].weight
    scaling: float = layer.scaling[names[0]]
    if isinstance(base, Conv1D):
        return _merged(weight, down, up, scaling)
    return torch.addmm(weight, up, down, alpha=scaling)


def fuse_lora(model: nn.Module) -> None:
    """Let every plain LoRA layer of `model` compute through `_AdaptedLinear`.

    Layers that are more than a linear map with one adapter in the base weights' own precision keep
    peft's forward pass.
    """
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        if is_plain_linear(module.get_base_layer()):
            module.forward = _fused_forward(module, module.forward)


def _fused_forward(layer: Any, plain: Any) -> Any:
    base = layer.get_base_layer()

    def forward(inputs: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if layer.disable_adapters:
            result: Tensor = base(inputs)
            return result
        (name,) = layer.active_adapters
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        if not inputs.dtype == base.weight.dtype == down.dtype:
            result = plain(inputs, *arguments, **options)
            return result
        weight = base.weight if isinstance(base, Conv1D) else base.weight.T
        # Rows outside of the function: of a view that it returned, autograd would let nobody change
        # anything in place, as some models do with a layer's output.
        flat = inputs.reshape(-1, inputs.shape[-1])
        rows: Tensor = _AdaptedLinear.apply(flat, weight, base.bias, down, up, layer.scaling[name])
        return rows.view(*inputs.shape[:-1], rows.shape[-1])

    return forward
