"""Whether each adapted layer, on its own, computes what peft's does, merged and unmerged.

Layer by layer, rounding stays far below what an adapter changes, in any precision; through a whole
model of 16 bits it may hide the fault of a single layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from klvi.policy.policy import Policy

# Rows of inputs on which two layers are compared.
ROWS = 8
# The share of what an adapter changes that it may be off by, and roundings of the whole.
SHARE, ROUNDINGS = 0.02, 4.0


@torch.no_grad()
def wrong_layer(policy: Policy, reference: PreTrainedModel) -> str | None:
    """The first layer whose adapter does not do what the same does in peft's `reference`.

    Its name, with what is wrong; None where all are right.
    """
    with policy.merged() as view:
        for name, layer in policy.adapted_layers.items():
            theirs: Any = reference.get_submodule(name)
            base = theirs.get_base_layer()
            if view is not policy.model:
                change = theirs.get_delta_weight(theirs.active_adapters[0])
                merged: Any = view.get_submodule(name)
                if _differ(merged.weight, base.weight, change):
                    return f"layer {name}: its adapter is not merged as peft merges it"
            inputs = _inputs(base)
            if inputs is None:
                continue
            plain = base(inputs)
            if _differ(layer(inputs), plain, theirs(inputs).float() - plain.float()):
                return f"layer {name}: its adapter does not do what peft's does"
    return None


def _inputs(base: nn.Module) -> Tensor | None:
    """Inputs of a layer; None where its kind of layer takes another kind."""
    weight = getattr(base, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        return None
    if isinstance(base, nn.Embedding):
        return torch.arange(ROWS, device=weight.device)[None] % base.num_embeddings
    if not isinstance(base, nn.Linear | Conv1D):
        return None
    width = weight.shape[0] if isinstance(base, Conv1D) else weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, ROWS, width, generator=generator).to(weight)


def _differ(result: Tensor, before: Tensor, change: Tensor) -> bool:
    expected = before.float() + change.float()
    rounding = ROUNDINGS * torch.finfo(result.dtype).eps * float(expected.norm())
    error = float((result.float() - expected).norm())
    # Not less, rather than more: NaN differs.
    return not error <= SHARE * float(change.float().norm()) + rounding
