"""A key-value cache that is written into, not copied at every token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer


def reserved_cache(config: PretrainedConfig, capacity: int) -> DynamicCache:
    """An empty cache with room for `capacity` tokens of each sequence.

    Layers of another kind (sliding windows, states of recurrent layers) stay transformers' own.
    """
    cache = DynamicCache(config=config)
    cache.layers = [
        ReservedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keep the sequences at `rows` `(n,)`, of which one may be named more than once."""
    for layer in cache.layers:
        # Of layers with states and keys, `batch_select_indices` would leave the states as they are.
        layer.reorder_cache(rows)


class ReservedLayer(DynamicLayer):
    """Keys and values as the first columns of buffers that are large enough from the start."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append `(n, H, t, D)` keys and values; returns all so far."""
        if self._buffers is None:
            self.lazy_initialization(key_states, value_states)
            self._buffers = self._reserve(key_states), self._reserve(value_states)
        start = self.get_seq_length()
        keys, values = self._buffers
        end = start + key_states.shape[2]
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the sequences at `beam_idx`, of which one may be named more than once."""
        length = self.get_seq_length()
        if length == 0:
            return
        keys, values = self.keys[beam_idx], self.values[beam_idx]
        self._buffers = self._reserve(keys), self._reserve(values)
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)
        self.keys.copy_(keys)
        self.values.copy_(values)

    def _reserve(self, states: Tensor) -> Tensor:
        count, heads, _, width = states.shape
        return torch.empty(
            count, heads, self._capacity, width, dtype=states.dtype, device=states.device
        )
