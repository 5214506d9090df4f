"""The sequences on which a model is checked: prompts of unequal length, at the lengths of a run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig

from klvi.contexts import Context
from klvi.engine.base import Prefixes
from klvi.engine.torch_engine import TorchEngine
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior
from klvi.randomness import Randomness
from klvi.samples import Completions

# Completions up to this length are decoded whole, of longer ones only stretches.
WHOLE, STRETCH = 48, 24
# By how many tokens prompts are made longer where a run has prompts of one length only.
LONGER = (0, 2, 5)
# Each prompt is completed twice: rows that are equal first, then part.
TWICE = 2
# No token: what is checked does not end.
NEVER = (-1,)


@dataclass(frozen=True)
class Prompts(Prefixes):
    """Prompts, and how much to decode."""

    new_tokens: int

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its completion."""
        return int(self.lengths.max()) + self.new_tokens


@dataclass(frozen=True)
class Completed(Completions):
    """Completions of prompts, as klvi decodes and scores them.

    Attributes:
        decoded: `(R, T)` log-probabilities found while decoding, nats; None where the engine has
            none.
        scored: `(R, T)` those of micro-batches.
    """

    decoded: Tensor | None
    scored: Tensor

    def row(self, number: int) -> tuple[Tensor, int]:
        """A row's prompt and completion without padding, and where the completion starts."""
        start = int(self.prompt_lengths[number])
        return torch.cat([self.prompt_tokens[number, -start:], self.tokens[number]]), start

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its completion."""
        return int((self.prompt_lengths + self.lengths).max())

    def distinct_prompts(self) -> range:
        """A row of each prompt: the second, which has left the row that it shared."""
        return range(TWICE - 1, len(self.tokens), TWICE)


def checked_prompts(
    prior: Prior, contexts: Sequence[Context], max_new_tokens: int
) -> list[Prompts]:
    """The run's shortest, middle and longest prompt, completed as far as the run does.

    Where all are of one length, some are made longer. Of long completions these are checked: their
    start, their end, and where the model's configuration says that something changes.
    """
    tokens, lengths = prior.encode(contexts)
    order = lengths.argsort(stable=True).tolist()
    chosen = [order[0], order[len(order) // 2], order[-1]]
    rows = [tokens[i, -int(lengths[i]) :] for i in chosen]
    room = _room(prior, max_new_tokens)
    if len({len(row) for row in rows}) == 1:
        rows = [
            _extended(prior, row, len(row) + more) for row, more in zip(rows, LONGER, strict=True)
        ]
    rows = [row for row in rows if len(row) <= room] or rows[:1]
    if max_new_tokens <= WHOLE:
        return [_batch(rows, max_new_tokens)]
    longest = max(map(len, rows))
    changes = [length - longest - STRETCH // 2 for length in _changes(prior.model.config)]
    offsets = {
        0,
        max_new_tokens - STRETCH,
        *(c for c in changes if 0 < c < max_new_tokens - STRETCH),
    }
    return [
        _batch([_extended(prior, row, len(row) + offset) for row in rows], STRETCH)
        for offset in sorted(offsets)
    ]


@torch.no_grad()
def complete(policy: Policy, prompts: Prompts, known: Completed | None = None) -> Completed:
    """The prompts completed and scored as in a rollout, but never ended; or `known`, scored."""
    new, decoded = prompts.new_tokens, None
    if known is None:
        # Other engines have limits of their own, and their log-probabilities are not used.
        engine = policy.engine if policy.engine.exact_log_probs else TorchEngine()
        uniforms = Randomness("check", (0,), 0).uniforms(torch.arange(len(prompts)), new)
        with policy.merged() as model:
            found = engine.complete(policy.view(model, NEVER), prompts, uniforms)
        decoded = found.log_probs if engine is policy.engine else None
    tokens = found.tokens if known is None else known.tokens
    lengths = torch.full_like(prompts.lengths, new)
    ids = Completions(prompts.tokens, prompts.lengths, tokens, lengths)
    return Completed(**vars(ids), decoded=decoded, scored=policy.log_probs(ids))


def _batch(rows: Sequence[Tensor], new_tokens: int) -> Prompts:
    rows = list(itertools.chain.from_iterable([row] * TWICE for row in rows))
    width = max(map(len, rows))
    padded = [torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows]
    lengths = torch.tensor(list(map(len, rows)), device=rows[0].device)
    return Prompts(torch.stack(padded), lengths, new_tokens)


def _extended(prior: Prior, row: Tensor, length: int) -> Tensor:
    """`row` with ordinary tokens, drawn at random, up to `length`."""
    special = {*prior.tokenizer.all_special_ids, *prior.stop_token_ids}
    vocabulary = int(prior.model.get_input_embeddings().weight.shape[0])
    ordinary = torch.tensor([i for i in range(vocabulary) if i not in special] or [0])
    generator = torch.Generator().manual_seed(len(row))
    places = torch.randint(len(ordinary), (length - len(row),), generator=generator)
    return torch.cat([row, ordinary[places].to(row.device)])


def _room(prior: Prior, max_new_tokens: int) -> int:
    limit = prior.most_tokens
    return 2**31 if limit is None else max(limit - max_new_tokens, 1)


def _changes(config: PretrainedConfig) -> set[int]:
    """Lengths at which a model may begin to compute otherwise, by what its configuration names."""
    words = ("window", "chunk", "original_max_position", "block")
    values = config.get_text_config().to_dict()
    nested = [v for v in values.values() if isinstance(v, dict)]
    return {
        value
        for part in (values, *nested)
        for name, value in part.items()
        if any(word in str(name) for word in words)
        and isinstance(value, int)
        and not isinstance(value, bool)
    }
