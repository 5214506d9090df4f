"""LoRA adapters added into the weights of their layers (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


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
        return torch.addmm(weight, down.T, up.T, alpha=scaling)
    return torch.addmm(weight, up, down, alpha=scaling)
