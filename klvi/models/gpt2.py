"""A step of decoding with GPT-2, written out.

transformers' forward pass serves every use of a model. What it looks up and wraps on the way is a
third of a step's time where the model is small, as the shipped priors are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache, GPT2LMHeadModel, PreTrainedModel

# Keys from which, on a CPU, two products for all heads of all sequences at once are faster than
# torch's attention, which takes one head of one sequence after the other.
MANY_KEYS = 16

Step = Callable[[Tensor, DynamicCache, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


def gpt2_step(model: PreTrainedModel) -> Step | None:
    """What computes a step with `model` as its layers now are; None where it is no plain GPT-2.

    The step takes the last tokens `(n, 1)`, the cache of all before, which it extends, and, where
    prompts are padded, which of all tokens are real `(n, K)` bool and the last ones' positions
    `(n, 1)`. It returns logits `(n, V)` and final hidden states `(n, H)`.
    """
    config = model.config
    plain = type(model) is GPT2LMHeadModel and config._attn_implementation == "sdpa"
    if not plain or config.add_cross_attention:
        return None
    trunk, head, heads = model.transformer, model.lm_head, config.n_head
    # Looking up the attributes of a module takes as long as a small operation.
    blocks = [
        (block.ln_1, block.attn.c_attn, block.attn.c_proj, block.ln_2, block.mlp)
        for block in trunk.h
    ]
    scales = [block.attn.scaling for block in trunk.h]
    embedding, positions, final = trunk.wte, trunk.wpe, trunk.ln_f

    def step(
        tokens: Tensor, cache: DynamicCache, real: Tensor | None, position: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        place = cache.get_seq_length() if position is None else position[:, 0]
        states = embedding(tokens[:, 0]) + positions.weight[place]
        count, width = states.shape
        mask = None if real is None else real[:, None, None]
        for (first, projections, merge, second, mlp), scale, layer in zip(
            blocks, scales, cache.layers, strict=True
        ):
            projected = projections(first(states)).view(count, 3, heads, 1, width // heads)
            query, key, value = projected.unbind(1)
            keys, values = layer.update(key, value)
            read = _attend(query, keys, values, mask, scale)
            states = states + merge(read.view(count, width))
            states = states + mlp(second(states))
        states = final(states)
        return head(states), states.float()

    return step


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """What `query` `(n, h, 1, d)` reads of `values` `(n, h, K, d)`; `mask` `(n, 1, 1, K)` bool."""
    if query.is_cuda or keys.shape[2] < MANY_KEYS:
        return torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=scale
        )
    scores = (scale * query) @ keys.transpose(2, 3)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ values
