"""Attention where torch's own is slow on a CPU: it takes one head of one sequence after the other.

With few tokens and narrow heads that is thousands of calls, each as short as the call itself. A
few products for all heads of all sequences at once are the same function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

# A single query: from how many keys on. Whole sequences: up to how many tokens, and how wide heads.
FEWEST_KEYS, MOST_TOKENS, WIDEST_HEAD = 16, 64, 32


def attend_once(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """What one query per sequence `(n, h, 1, d)` reads of `values` `(n, h, K, d)`.

    Args:
        keys: `(n, h, K, d)`.
        mask: `(n, 1, 1, K)` bool, which of the keys are read; None for all.
        scale: of the scores.
    """
    if keys.shape[2] < FEWEST_KEYS or not _by_products(query):
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    scores = (scale * query) @ keys.transpose(2, 3)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ values


def attend_causally(projected: Tensor, heads: int, scale: float) -> Tensor:
    """What each token reads of itself and those before, `(n, T, h·d)`.

    Args:
        projected: `(n, T, 3·h·d)`, queries, keys and values of all heads side by side.
        heads: h.
        scale: of the scores.
    """
    count, length, width = projected.shape
    head = width // 3 // heads
    if length <= MOST_TOKENS and head <= WIDEST_HEAD and _by_products(projected):
        read: Tensor = _ShortAttention.apply(projected, heads, scale)
        return read
    query, key, value = projected.view(count, length, 3, heads, head).transpose(1, 3).unbind(2)
    states = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    return states.transpose(1, 2).reshape(count, length, width // 3)


def _by_products(states: Tensor) -> bool:
    """Whether products may replace torch's kernel, which in half precision adds up in float32."""
    return states.device.type == "cpu" and states.dtype in {torch.float32, torch.float64}


class _ShortAttention(torch.autograd.Function):
    """softmax(scale·QKᵀ)·V below the diagonal, all `n·h` heads in one product each."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, heads: int, scale: float) -> Tensor:
        count, length, width = projected.shape
        split = (count, length, 3, heads, width // 3 // heads)
        parts = projected.view(split).permute(2, 0, 3, 1, 4).reshape(3, -1, length, split[-1])
        query, key, value = parts
        later = projected.new_full((length, length), -torch.inf).triu_(1)
        weights = torch.baddbmm(later, query, key.transpose(1, 2), alpha=scale).softmax(-1)
        ctx.save_for_backward(parts, weights)
        ctx.split, ctx.scale = split, scale
        read = torch.bmm(weights, value).view(count, heads, length, -1)
        return read.transpose(1, 2).reshape(count, length, width // 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (query, key, value), weights = ctx.saved_tensors
        count, length, _, heads, head = ctx.split
        read = gradient.view(count, length, heads, head).transpose(1, 2).reshape(query.shape)
        result = query.new_empty(3, *query.shape)
        torch.bmm(weights.transpose(1, 2), read, out=result[2])
        of_weights = torch.bmm(read, value.transpose(1, 2))
        scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        scores.mul_(ctx.scale)
        torch.bmm(scores, key, out=result[0])
        torch.bmm(scores.transpose(1, 2), query, out=result[1])
        whole = result.view(3, count, heads, length, head).permute(1, 3, 0, 2, 4)
        return whole.reshape(count, length, 3 * heads * head), None, None
