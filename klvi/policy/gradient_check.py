"""Whether an adapter's gradients are those of plain transformers and peft."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.policy.reference import rounded_again
from klvi.policy.self_check import (
    TOLERANCE,
    UnableError,
    disagreement,
    unable,
    with_random_adapter,
)
from klvi.policy.sequences import Completed, checked_prompts, complete

# Tokens of the completions, at most: a fault of a backward pass shows in any.
TOKENS = 12
ROUNDED_PASSES = 2
# What float32 makes of sums over tokens in another order, relatively.
SUMS = 1e-4


def check_gradients(
    policy: Policy, contexts: Sequence[Context], max_new_tokens: int, *, recompute: bool = False
) -> None:
    """Compare the adapter's gradients of log π, in padded batches, with plain ones row by row.

    They may differ by what one more rounding per layer changes of the plain ones. Checked is a view
    of the policy, with a random adapter.

    Args:
        recompute: whether activations are computed again in the backward pass.

    Raises UserError where they differ, or the model cannot be trained as it is.
    """
    prompts = checked_prompts(policy.prior, contexts, min(max_new_tokens, TOKENS))[0]
    adapted, reference = with_random_adapter(policy)
    if reference is None:
        return
    try:
        with unable():
            completed = complete(adapted, prompts)
            ours = _gradients_in_batches(adapted, completed, recompute)
    except UnableError as failure:
        raise UserError(disagreement(policy, f"a backward pass fails ({failure})")) from failure
    named = dict(reference.named_parameters())
    theirs = [named[name] for name in policy.adapter]
    plain = _plain_gradients(reference, theirs, completed)
    others = [
        _plain_gradients(reference, theirs, completed, seed) for seed in range(ROUNDED_PASSES)
    ]
    total = float(torch.stack([gradient.norm() for gradient in plain]).norm())
    for i, name in enumerate(policy.adapter):
        spread = max(float((other[i] - plain[i]).norm()) for other in others)
        error = float((ours[i] - plain[i]).norm())
        limit = TOLERANCE * spread + SUMS * (float(plain[i].norm()) + SUMS * total)
        # Not less, rather than more: NaN is a problem.
        if not error <= limit:
            raise UserError(
                disagreement(
                    policy,
                    f"the gradient of {name} is off by {error / max(total, 1e-30):.2g} of all "
                    f"gradients' norm, plain ones among themselves by {spread / total:.2g}",
                )
            )


def _gradients_in_batches(policy: Policy, completed: Completed, recompute: bool) -> list[Tensor]:
    """As learning computes them."""
    model, total = policy.recomputing if recompute else policy.model, torch.zeros(())
    with torch.enable_grad():
        for batch in policy.micro_batches(completed):
            total = total + batch.forward(model).log_probs().sum()
        return _gradients(total, policy.adapter_parameters())


def _plain_gradients(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    completed: Completed,
    seed: int | None = None,
) -> list[Tensor]:
    """Row by row, without padding; with a `seed`, with one more rounding of each layer's output."""
    sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
    with torch.enable_grad(), nullcontext() if seed is None else rounded_again(model, seed):
        for row in range(len(completed.tokens)):
            tokens, start = completed.row(row)
            logits = model(input_ids=tokens[None], use_cache=False).logits[0, start - 1 : -1]
            chosen = logits.float().log_softmax(-1).gather(1, tokens[start:, None])
            for total, gradient in zip(sums, _gradients(chosen.sum(), parameters), strict=True):
                total += gradient
    return sums


def _gradients(value: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    found = torch.autograd.grad(value, list(parameters), allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return [torch.zeros_like(p).float() if g is None else g.float() for g, p in pairs]
