"""Ancestral sampling: completions of the policy itself, scored under policy and prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from klvi.models.decoding import Decoded, decode
from klvi.models.policy import Policy
from klvi.models.scoring import (
    Completions,
    NextTokens,
    next_tokens,
    token_entropy,
    token_kl,
    token_log_probs,
)
from klvi.samples import Samples


@torch.no_grad()
def sample(
    policy: Policy,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    generator: torch.Generator,
    batch_size: int = 256,
    distributions: bool = False,
) -> Samples:
    """One completion per prompt, drawn from the policy at temperature 1; no reward yet.

    Args:
        generator: on the policy's device.
        batch_size: completions decoded together.
        distributions: also compute `entropy` and `kl` of the next-token distributions, which
            costs a forward pass of the policy.
    """
    if not prompts:
        raise ValueError("no prompts to complete")
    parts = [
        _sample_batch(policy, prompts[i : i + batch_size], max_new_tokens, generator, distributions)
        for i in range(0, len(prompts), batch_size)
    ]
    return parts[0] if len(parts) == 1 else Samples.concatenate(parts)


def _sample_batch(
    policy: Policy,
    prompts: Sequence[str],
    max_new_tokens: int,
    generator: torch.Generator,
    distributions: bool,
) -> Samples:
    prompt_tokens, prompt_lengths = policy.prior.encode(prompts)
    policy.prior.check_length(prompt_tokens.shape[1], max_new_tokens)
    with policy.merged() as model:
        decoded = decode(
            model,
            prompt_tokens,
            prompt_lengths,
            max_new_tokens=max_new_tokens,
            stop_token_ids=policy.prior.stop_token_ids,
            generator=generator,
            value_of=policy.value_head,
        )
    samples = _unscored(policy, prompts, prompt_tokens, prompt_lengths, decoded)
    return rescore(policy, samples, distributions=distributions)


def _unscored(
    policy: Policy,
    prompts: Sequence[str],
    prompt_tokens: Tensor,
    prompt_lengths: Tensor,
    decoded: Decoded,
) -> Samples:
    return Samples(
        prompts=list(prompts),
        prompt_tokens=prompt_tokens,
        prompt_lengths=prompt_lengths,
        tokens=decoded.tokens,
        lengths=decoded.lengths,
        ended=decoded.ended,
        log_policy=decoded.log_probs,
        log_prior=torch.zeros_like(decoded.log_probs),
        texts=policy.prior.decode(decoded.tokens, decoded.lengths),
        reward=torch.zeros(0),
        values=decoded.values,
    )


def completions(samples: Samples) -> Completions:
    """What of `samples` a model scores."""
    return Completions(
        samples.prompt_tokens, samples.prompt_lengths, samples.tokens, samples.lengths
    )


@torch.no_grad()
def rescore(policy: Policy, samples: Samples, *, distributions: bool) -> Samples:
    """The samples with `log_prior` from one pass of the prior.

    With `distributions` also `log_policy`, `entropy` and `kl` from a pass of the policy as it is
    now. A policy in lower precision than float32 is always scored again: what decoding said of a
    token, step by step, is then not what training will say.
    """
    batch = completions(samples)
    with policy.as_prior() as model:
        prior = next_tokens(model, batch)
    tokens = samples.tokens[prior.mask]
    log_prior = prior.unpack(token_log_probs(prior.logits, tokens))
    if not distributions and policy.model.dtype == torch.float32:
        return replace(samples, log_prior=log_prior)
    current = prior if policy.adapted is None else next_tokens(policy.model, batch)
    log_policy = current.unpack(token_log_probs(current.logits, tokens))
    samples = replace(samples, log_prior=log_prior, log_policy=log_policy)
    return _with_distributions(samples, current, prior) if distributions else samples


def _with_distributions(samples: Samples, current: NextTokens, prior: NextTokens) -> Samples:
    return replace(
        samples,
        entropy=current.unpack(token_entropy(current.logits)),
        kl=prior.unpack(token_kl(current.logits, prior.logits)),
    )


@torch.no_grad()
def log_policy_of(policy: Policy, samples: Samples, batch_size: int) -> Tensor:
    """`(N, T)` log π of given samples under the policy as it is now, nats per token."""
    parts = []
    for rows in torch.arange(len(samples), device=samples.tokens.device).split(batch_size):
        part = samples.select(rows)
        scored = next_tokens(policy.model, completions(part))
        parts.append(scored.unpack(token_log_probs(scored.logits, part.tokens[scored.mask])))
    return torch.cat(parts)
