"""What a forward pass of a causal LM takes, how large it may be, and what its logits say."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PretrainedConfig, PreTrainedModel

# Tokens of a forward pass: on a CPU what its caches hold, on a GPU what fills it.
CPU_BUDGET, CUDA_BUDGET = 1536, 8192
# Logits of a pass, of which up to four float32 copies live at once, and hidden numbers between its
# layers, of which the backward pass keeps about twenty of each.
CPU_LOGITS, CUDA_LOGITS, STATES = 2**27, 2**28, 2**28
# Logits that one operation handles at a time.
CPU_PART, CUDA_PART = 2**17, 2**27


def output_size(model: PreTrainedModel) -> int:
    """Number of logits at a position, which may exceed the tokenizer's vocabulary."""
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is not None and weight.dim() > 1:
        return int(weight.shape[0])
    return int(model.config.get_text_config().vocab_size)


def config_number(config: PretrainedConfig, name: str) -> int:
    """A size in a model's configuration, the largest where layers differ; 0 where it has none."""
    text = config.get_text_config(decoder=True)
    try:
        value = getattr(text, name, None)
    except RuntimeError:  # transformers gives none for all layers
        value = [getattr(layer, name, None) for layer in text.per_layer_config]
    values = value if isinstance(value, list | tuple) else [value]
    return max((each for each in values if isinstance(each, int)), default=0)


def pass_budget(model: PreTrainedModel) -> int:
    """Tokens of a forward pass of `model`: what suits the device, and its memory."""
    layers = config_number(model.config, "num_hidden_layers")
    width = config_number(model.config, "hidden_size")
    on_cpu = model.device.type == "cpu"
    return budget_of(output_size(model), max(layers * width, 1), on_cpu=on_cpu)


def budget_of(vocabulary: int, states: int, *, on_cpu: bool) -> int:
    """Tokens of a forward pass that makes `vocabulary` logits and `states` hidden numbers a token.

    At most 1,536 on a CPU and 8,192 on a GPU; fewer where their logits or states would be more
    than `CPU_LOGITS` or `CUDA_LOGITS`, and `STATES`.
    """
    tokens, logits = (CPU_BUDGET, CPU_LOGITS) if on_cpu else (CUDA_BUDGET, CUDA_LOGITS)
    return max(min(tokens, logits // vocabulary, STATES // states), 1)


def left_padding(prompt_tokens: Tensor, prompt_lengths: Tensor) -> Tensor | None:
    """The prompts' attention mask `(N, P)`, or None where no prompt is padded."""
    width = prompt_tokens.shape[1]
    if bool((prompt_lengths == width).all()):
        return None
    return torch.arange(width, device=prompt_tokens.device) >= width - prompt_lengths[:, None]


def positions(attention: Tensor) -> Tensor:
    """Position ids `(N, T)` of the tokens in `attention` `(N, T)` bool, from 0; 0 in padding."""
    return (attention.cumsum(1) - 1).clamp_min(0)


def padded_inputs(
    model: PreTrainedModel, attention: Tensor | None, position: Tensor | None = None
) -> dict[str, Tensor]:
    """What tells `model` that only the tokens in `attention` `(N, T)` are real; None: all.

    `position` `(N, t)` are the ids of the last t tokens; by default of all. A model without ids of
    positions takes them from the mask, or has none.
    """
    if attention is None:
        return {}
    inputs = {"attention_mask": attention.long()}
    if "position_ids" in _parameters(type(model).forward):
        inputs["position_ids"] = positions(attention) if position is None else position
    return inputs


def cache_input(model: PreTrainedModel, kept: Any) -> dict[str, Any]:
    """A cache by the name that `model` takes it by."""
    names = _parameters(type(model).forward)
    known = (name for name in ("past_key_values", "cache_params") if name in names)
    return {next(known, "past_key_values"): kept}


@cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def selected_logits(
    model: PreTrainedModel, select: Callable[[Tensor], Tensor], **inputs: Any
) -> tuple[Tensor, Tensor]:
    """A forward pass whose output embedding reads only what `select` takes of the states.

    Args:
        select: of final hidden states `(N, T, H)`, those that are wanted, `(n, t, H)`.

    Returns:
        These states and their logits `(n, t, V)`.
    """
    captured: list[Tensor] = []
    thread = get_ident()

    def selected(_: nn.Module, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if get_ident() != thread:  # another's pass through the same module
            return states
        captured.append(select(states[0]))
        return (captured[0],)

    hook = model.get_output_embeddings().register_forward_pre_hook(selected)
    try:
        output = model(**inputs)
    finally:
        hook.remove()
    return captured[0], output.logits


def token_log_probs(logits: Tensor, tokens: Tensor, rows: Tensor | None = None) -> Tensor:
    """`(m,)` log-probabilities, nats per token, of `tokens` `(m,)` under `logits` `(n, V)`.

    Token i is that of `rows[i]`; None where m = n, in order.
    """
    log_probs: Tensor = _SelectedLogSoftmax.apply(logits, tokens, rows)
    return log_probs


class _SelectedLogSoftmax(torch.autograd.Function):
    """log softmax at some tokens; autograd of the formula would make five `(n, V)` tensors."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, rows: Tensor | None) -> Tensor:
        log_total = torch.cat([logits[part].logsumexp(1) for part in _parts(logits)])
        ctx.save_for_backward(logits, tokens, log_total, rows)
        if rows is not None:
            return logits[rows, tokens] - log_total[rows]
        return logits.gather(1, tokens[:, None]).squeeze(1) - log_total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, tokens, log_total, rows = ctx.saved_tensors
        total = gradient
        if rows is not None:
            total = torch.zeros_like(log_total).index_add_(0, rows, gradient)
        result = torch.empty_like(logits)
        for part in _parts(logits):
            torch.sub(logits[part], log_total[part, None], out=result[part])
            result[part].exp_().mul_(-total[part, None])
        if rows is not None:
            return result.index_put_((rows, tokens), gradient, accumulate=True), None, None
        return result.scatter_add_(1, tokens[:, None], gradient[:, None]), None, None


def token_entropy(logits: Tensor) -> Tensor:
    """`(n,)` entropies, nats, of the distributions given by `logits` `(n, V)`."""
    return torch.cat([_entropy(logits[rows].log_softmax(1)) for rows in _parts(logits)])


def _entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs.nan_to_num(neginf=0.0)).sum(1)


def token_kl(policy_logits: Tensor, prior_logits: Tensor) -> Tensor:
    """`(n,)` KL(policy ‖ prior), nats, of the next-token distributions given by logits `(n, V)`."""
    parts = ((policy_logits[rows], prior_logits[rows]) for rows in _parts(policy_logits))
    return torch.cat([_kl(policy.log_softmax(1), prior.log_softmax(1)) for policy, prior in parts])


def _kl(policy: Tensor, prior: Tensor) -> Tensor:
    return (policy.exp() * (policy - prior)).sum(1)


def _parts(logits: Tensor) -> list[slice]:
    """Rows of `logits` `(n, V)` whose intermediate results stay in a core's cache.

    Fresh memory of the size of all logits costs a CPU more than the arithmetic on it.
    """
    count = (CUDA_PART if logits.is_cuda else CPU_PART) // logits.shape[1] + 1
    return [slice(start, start + count) for start in range(0, len(logits), count)]
