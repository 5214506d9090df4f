"""A distribution over a few sequences, listed or drawn from as samples with any scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.samples import Samples


def random_prior(size: int = 60, seed: int = 0) -> Tensor:
    """`(S,)` log π0, nats."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator).double().log_softmax(0)


def listed(
    log_prior: Tensor, scores: Mapping[str, Tensor], context: Tensor | None = None
) -> Samples:
    """All S sequences of each context `(S,)`, as if drawn uniformly."""
    rows = [0] * len(log_prior) if context is None else context.tolist()
    count, once = len(rows), torch.ones(len(rows), dtype=torch.long)
    return Samples(
        contexts=[Context(row) for row in rows],
        prompt_tokens=torch.zeros(count, 1, dtype=torch.long),
        prompt_lengths=once,
        tokens=once[:, None],
        lengths=once,
        ended=once.bool(),
        log_policy=log_prior[:, None],
        log_prior=log_prior[:, None],
        texts=[f"text {i}" for i in range(count)],
        scores=dict(scores),
        log_density=torch.zeros(count).double(),
    )


def drawn(
    log_prior: Tensor,
    scores: Mapping[str, Tensor],
    count: int,
    seed: int,
    log_proposal: Tensor | None = None,
) -> Samples:
    """`count` samples of the prior, or of a proposal `(S,)`."""
    generator = torch.Generator().manual_seed(seed)
    density = log_prior if log_proposal is None else log_proposal
    rows = torch.multinomial(density.exp(), count, replacement=True, generator=generator)
    return replace(listed(log_prior, scores).select(rows), log_density=density[rows])


def kl(p: Tensor, q: Tensor) -> float:
    """KL of `(S,)` probabilities, nats."""
    return float(torch.where(p > 0, p * (p / q).log(), 0.0).sum())
