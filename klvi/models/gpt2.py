"""GPT-2 written out: a step of decoding, and a pass over whole sequences.

transformers' forward pass serves every use of a model. What it looks up and wraps on the way is a
third of a step's time where the model is small, as the shipped priors are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GPT2LMHeadModel, PreTrainedModel

from klvi.models.attention import attend_causally, attend_once


def plain_gpt2(model: PreTrainedModel) -> PlainGPT2 | None:
    """`model` written out; None where it is no plain GPT-2, or in training mode, with dropout."""
    config = model.config
    plain = type(model) is GPT2LMHeadModel and config._attn_implementation == "sdpa"
    if not plain or config.add_cross_attention or model.training:
        return None
    return PlainGPT2(model)


class PlainGPT2:
    """The layers of a GPT-2 as they are now: with an adapter, without, or with one merged."""

    def __init__(self, model: Any) -> None:
        trunk = model.transformer
        self._embedding, self._positions, self._final = trunk.wte, trunk.wpe, trunk.ln_f
        self._head = model.lm_head
        self._heads = model.config.n_head
        # Looking up the attributes of a module takes as long as a small operation.
        self._blocks = [
            (block.ln_1, block.attn.c_attn, block.attn.c_proj, block.ln_2, block.mlp)
            for block in trunk.h
        ]
        self._scales = [block.attn.scaling for block in trunk.h]
        # How a layer keeps none of its activations and computes them again; None where it keeps.
        self._again = [
            block._gradient_checkpointing_func if block.gradient_checkpointing else None
            for block in trunk.h
        ]

    def logits(self, states: Tensor) -> Tensor:
        """Next-token logits `(…, V)` after final hidden states `(…, H)`."""
        logits: Tensor = self._head(states)
        return logits

    def states(self, tokens: Tensor) -> Tensor:
        """Final hidden states `(n, T, H)` of `tokens` `(n, T)`, none of them padding."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self._run(
            self._embedding(tokens) + self._positions(places),
            lambda i, projected: attend_causally(projected, self._heads, self._scales[i]),
        )

    def step(
        self,
        tokens: Tensor,
        cache: DynamicCache,
        real: Tensor | None = None,
        position: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states `(n, H)` of the last `tokens` `(n, 1)`.

        Args:
            cache: of all tokens before; it is extended.
            real: `(n, K)` bool, which of all tokens are no padding; None for all.
            position: `(n, 1)`, of the last tokens, where there is padding.
        """
        if position is None:
            position = torch.full((1, 1), cache.get_seq_length(), device=tokens.device)
        mask = None if real is None else real[:, None, None]

        def attend(i: int, projected: Tensor) -> Tensor:
            count, width = projected.shape
            split = projected.view(count, 3, self._heads, 1, width // 3 // self._heads)
            query, key, value = split.unbind(1)
            keys, values = cache.layers[i].update(key, value)
            return attend_once(query, keys, values, mask, self._scales[i]).view(count, width // 3)

        embedded = self._embedding(tokens[:, 0]) + self._positions(position[:, 0])
        return self._run(embedded, attend)

    def _run(self, states: Tensor, attend: Callable[[int, Tensor], Tensor]) -> Tensor:
        for i, again in enumerate(self._again):
            block = partial(self._block, i, attend)
            states = block(states) if again is None else again(block, states)
        final: Tensor = self._final(states)
        return final

    def _block(self, i: int, attend: Callable[[int, Tensor], Tensor], states: Tensor) -> Tensor:
        first, projections, merge, second, mlp = self._blocks[i]
        states = states + merge(attend(i, projections(first(states))))
        result: Tensor = states + mlp(second(states))
        return result
