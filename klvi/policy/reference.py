"""Plain forward passes of transformers and peft, and how far they agree among themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Rows of the passes that repeat a sequence: kernels are chosen by the number of rows.
BATCHES = (3,)
# Passes with one more rounding at each layer.
ROUNDED_PASSES = 2
# Units in the last place of that rounding: products of many terms round many times.
ROUNDING = 2.0


@torch.no_grad()
def plain_log_probs(model: PreTrainedModel, tokens: Tensor, start: int) -> Tensor:
    """`(T − start,)` log-probabilities of the tokens `(T,)` from `start` on, nats, float64.

    One row, no cache, no padding.
    """
    return _log_probs(model, tokens[None], start)[0]


@torch.no_grad()
def prefix_log_prob(model: PreTrainedModel, tokens: Tensor, place: int) -> Tensor:
    """The log-probability `()` of the token at `place`, by a pass over what stands before it."""
    logits: Tensor = model(input_ids=tokens[None, :place], use_cache=False).logits[0, -1]
    return logits.double().log_softmax(-1)[tokens[place]]


@torch.no_grad()
def plain_spread(model: PreTrainedModel, tokens: Tensor, start: int, reference: Tensor) -> Tensor:
    """`(K, T − start)` absolute differences of K plain passes from `reference`, nats.

    `reference` `(T − start,)` is what `plain_log_probs` gives.

    The passes differ in the number of rows and in rounding alone: what they differ by is what the
    model makes of rounding, whatever its precision and its kinds of layers are.
    """
    found = [_log_probs(model, tokens.expand(rows, -1), start)[-1] for rows in BATCHES]
    for seed in range(ROUNDED_PASSES):
        with rounded_again(model, seed):
            found.append(plain_log_probs(model, tokens, start))
    return (torch.stack(found) - reference).abs()


def _log_probs(model: PreTrainedModel, tokens: Tensor, start: int) -> Tensor:
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits[:, start - 1 : -1]
    return logits.double().log_softmax(-1).gather(2, tokens[:, start:, None])[..., 0]


@contextmanager
def rounded_again(model: nn.Module, seed: int) -> Iterator[None]:
    """The model with the output of each layer off by random rounding errors.

    A sum of products rounds in proportion to its terms, not to what is left of them: the errors
    have the size of a row of outputs, not of each.
    """

    def perturb(_: nn.Module, __: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor) or not first.is_floating_point() or first.dim() == 0:
            return output
        noise = torch.randn(first.shape, generator=generator).to(first.device)
        size = first.detach().float().square().mean(-1, keepdim=True).sqrt()
        off = (first.float() + ROUNDING * _resolution(first) * size * noise).to(first.dtype)
        return (off, *output[1:]) if isinstance(output, tuple) else off

    generator = torch.Generator().manual_seed(seed)
    layers = [m for m in model.modules() if not any(True for _ in m.children())]
    hooks = [layer.register_forward_hook(perturb) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _resolution(values: Tensor) -> float:
    """The relative distance of neighbouring numbers, as products are computed."""
    tensor_cores = values.is_cuda and values.dtype == torch.float32
    if tensor_cores and torch.get_float32_matmul_precision() != "highest":
        return 2.0**-10
    return float(torch.finfo(values.dtype).eps)
