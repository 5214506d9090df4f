"""Linear layers laid out for decoding on a CPU.

A step of decoding multiplies all weights with as few rows as the batch has sequences. Weights in
blocks, as oneDNN keeps them, are then read two to three times as fast as in rows; the products are
those of float32 as before. Laying them out costs about ten steps' gain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from klvi.models.products import has_onednn, is_plain_linear, onednn_linear

# Steps and weights below which laying out takes longer than it saves.
MIN_STEPS, MIN_WEIGHTS = 16, 2**16
# For how many rows the layout is chosen; others are served as well.
ROWS = 16


def packable(modules: Iterable[nn.Module]) -> list[Any]:
    """The linear maps among `modules` that are worth it: large, of float32, on a CPU."""
    return [
        module
        for module in modules
        if is_plain_linear(module)
        and has_onednn(module.weight)
        and module.weight.numel() >= MIN_WEIGHTS
    ]


def pack(layer: Any) -> Tensor:
    """The layer's weights `(out, in)` in blocks."""
    weight: Tensor = layer.weight.detach()
    rows = weight.T if isinstance(layer, Conv1D) else weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(rows.contiguous(), ROWS)
    return packed


@contextmanager
def computing_with(weights: Mapping[Any, Tensor]) -> Iterator[None]:
    """The layers computing with packed weights, without gradient; afterwards as they were."""
    for layer, weight in weights.items():
        layer.forward = partial(onednn_linear, weight, layer.bias)
    try:
        yield
    finally:
        for layer in weights:
            del layer.forward
