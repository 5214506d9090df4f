"""GPT-2's GELU, as fast as a CPU allows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation

SLOPE = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * SLOPE
# Elements whose intermediate results stay in a core's cache.
PART = 2**16


def fuse_activations(model: PreTrainedModel) -> None:
    """Replace GPT-2's GELU, eight elementwise operations, by the same function in fewer passes.

    The eight are over half of a small GPT-2's training time on a CPU.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, TanhGELU())


class TanhGELU(nn.Module):
    """x·½(1 + tanh(√(2/π)(x + 0.044715x³))) (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The GELU of each element; torch's own kernel where it is a fast one."""
        small = not torch.is_grad_enabled() and inputs.numel() <= PART
        if small or inputs.is_cuda or inputs.dtype not in {torch.float32, torch.float64}:
            return nn.functional.gelu(inputs, approximate="tanh")
        outputs: Tensor = _TanhGELU.apply(inputs)
        return outputs


class _TanhGELU(torch.autograd.Function):
    """y = x·σ(v), v = 2√(2/π)(x + 0.044715x³), which is the same; y' = σ + y·(1 − σ)·v'.

    Of the two results, the layer that follows keeps y in any case, and σ is y/x: nothing else is
    written or kept, which is a fifth of a small GPT-2's activations.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        flat = inputs.reshape(-1)
        outputs, slope = torch.empty_like(flat), flat.new_tensor(SLOPE)
        for x, y in _parts(flat, outputs):
            torch.addcmul(slope, x, x, value=CUBIC, out=y).mul_(x).sigmoid_().mul_(x)
        ctx.save_for_backward(flat, outputs)
        return outputs.view_as(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        flat, outputs = ctx.saved_tensors
        result, slope = torch.empty_like(flat), flat.new_tensor(SLOPE)
        for x, y, grad, out in _parts(flat, outputs, gradient.reshape(-1), result):
            # Exactly 0 has no quotient; σ is ½ there.
            sigma = torch.div(y, x).nan_to_num_(0.5)
            torch.addcmul(slope, x, x, value=3 * CUBIC, out=out).mul_(y)
            out.addcmul_(out, sigma, value=-1).add_(sigma).mul_(grad)
        return result.view_as(gradient)


def _parts(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    return zip(*(tensor.split(PART) for tensor in tensors), strict=True)
