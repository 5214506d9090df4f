"""Sampling from a causal LM at temperature 1, nothing truncated, log-probabilities on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from klvi.engine.batching import Batching
from klvi.engine.cache import reserved_cache, select_rows
from klvi.engine.scoring import cache_input, left_padding, padded_inputs, positions, selected_logits
from klvi.samples import distinct_rows

# Of the rows of a step: how many must be live to leave the ended ones in, and how few must be
# distinct to be shared. Either spares or costs a copy of the whole cache.
COMPACT_BELOW, SHARE_BELOW = 0.75, 0.9
FASTEST = Batching()


@dataclass(frozen=True)
class Decoded:
    """Sampled completions.

    Attributes:
        tokens: `(N, T)`, T the longest; padded on the right with a stop token.
        lengths: `(N,)`, the stop token included.
        ended: `(N,)` bool, whether a stop token was sampled.
        log_probs: `(N, T)`, nats per token, 0 in padded places.
        values: `(N, T)`, what `value_of` said of each prefix; None without it.
    """

    tokens: Tensor
    lengths: Tensor
    ended: Tensor
    log_probs: Tensor
    values: Tensor | None


class Decoder(Protocol):
    """What completes prompts; see `decode`, which is klvi's own."""

    def __call__(
        self,
        model: PreTrainedModel,
        prompt_tokens: Tensor,
        prompt_lengths: Tensor,
        *,
        max_new_tokens: int,
        stop_token_ids: tuple[int, ...],
        generator: torch.Generator,
        value_of: Callable[[Tensor], Tensor] | None = None,
    ) -> Decoded:
        """Samples at temperature 1, nothing truncated."""
        ...


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    prompt_tokens: Tensor,
    prompt_lengths: Tensor,
    *,
    max_new_tokens: int,
    stop_token_ids: tuple[int, ...],
    generator: torch.Generator,
    value_of: Callable[[Tensor], Tensor] | None = None,
    batching: Batching = FASTEST,
) -> Decoded:
    """Ancestral sampling with a key-value cache; sequences that have ended leave the batch.

    Sequences that are still equal share a row of the model's batch: N completions of one prompt
    cost one pass over it.

    Written out, not `generate`, so that nothing in a model's own generation config (temperature,
    top-k, penalties, minimal length) can part the sampler from the log-probabilities.

    Args:
        prompt_tokens: `(N, P)`, padded on the left; `prompt_lengths` `(N,)`.
        value_of: maps final hidden states `(n, H)` to `(n,)`.
        batching: without `padding` it is the caller who gives prompts of equal length only.
    """
    stop = torch.tensor(stop_token_ids, device=prompt_tokens.device)
    batch = _Batch(model, prompt_tokens, prompt_lengths, max_new_tokens, batching)
    columns: list[_Column] = []
    for t in range(max_new_tokens):
        logits, hidden = batch.step()
        log_next = logits.float().log_softmax(-1)
        choice = sample_tokens(log_next, generator)
        value = None if value_of is None else value_of(hidden)
        columns.append(
            _Column(batch.rows, batch.live, choice[:, 0], log_next.gather(1, choice)[:, 0], value)
        )
        left = batch.end(choice, stop)
        if left == 0 or t + 1 == max_new_tokens:
            break
        batch.advance(choice, left)
    running = torch.zeros_like(prompt_lengths).bool()
    running[batch.rows] = batch.live
    return _decoded(columns, ~running, stop_token_ids[0])


def sample_tokens(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """One token `(n, 1)` from each row of `log_probs` `(n, V)`."""
    device = log_probs.device
    wide = torch.float32 if device.type == "mps" else torch.float64
    uniform = torch.rand(len(log_probs), 1, dtype=wide, device=device, generator=generator)
    return tokens_at(log_probs, uniform)


def tokens_at(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """The tokens `(n, 1)` at `uniform` `(n, 1)` of the cumulative `log_probs` `(n, V)`, in float64.

    A token of probability 0 is never drawn. `torch.multinomial` would draw V random numbers a row.
    """
    if log_probs.device.type == "mps":  # which has no float64
        return tokens_at(log_probs.cpu(), uniform.cpu().double()).to(log_probs.device)
    cumulative = log_probs.double().exp_().cumsum_(1)
    chosen = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    # Of a policy that is spoiled, NaN, all tokens come too late: its log-probabilities tell of it.
    return chosen.clamp_max_(log_probs.shape[1] - 1)


def last_logits(model: PreTrainedModel, **inputs: Any) -> tuple[Tensor, Tensor]:
    """Next-token logits `(n, V)` and final hidden states `(n, H)` after the last of the inputs."""
    states, logits = selected_logits(model, lambda states: states[:, -1:], **inputs)
    return logits[:, -1], states[:, 0].float()


@dataclass(frozen=True)
class _Column:
    """What one step said of the n sequences of a batch; all `(n,)`.

    Attributes:
        rows: which of the N sequences they are.
        live: whether they had not ended before.
    """

    rows: Tensor
    live: Tensor
    token: Tensor
    log_prob: Tensor
    value: Tensor | None


def _decoded(columns: list[_Column], ended: Tensor, padding: int) -> Decoded:
    """The steps side by side, `padding` where a sequence has no token."""
    live = torch.cat([column.live for column in columns])
    rows = torch.cat([column.rows for column in columns])[live]
    steps = torch.cat([torch.full_like(c.rows, t) for t, c in enumerate(columns)])[live]

    def table(parts: list[Tensor], empty: float) -> Tensor:
        entries = torch.cat(parts)[live]
        result = torch.full(
            (len(ended), len(columns)), empty, dtype=entries.dtype, device=entries.device
        )
        return result.index_put_((rows, steps), entries)

    values = [column.value for column in columns if column.value is not None]
    return Decoded(
        tokens=table([column.token for column in columns], padding),
        lengths=torch.bincount(rows, minlength=len(ended)),
        ended=ended,
        log_probs=table([column.log_prob for column in columns], 0.0),
        values=table(values, 0.0) if values else None,
    )


class _Batch:
    """The sequences still decoded; those that are equal so far share a row of the model's batch.

    Attributes:
        rows: `(n,)` which of the N sequences they are.
        live: `(n,)` bool, which of them have not ended.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompt_tokens: Tensor,
        prompt_lengths: Tensor,
        max_new_tokens: int,
        batching: Batching,
    ) -> None:
        self.rows = torch.arange(len(prompt_tokens), device=prompt_tokens.device)
        self.live = torch.ones_like(prompt_lengths).bool()
        # What is computed anew can be rearranged at will.
        self._sharing = batching.sharing or not batching.cache
        first = self._place = self.rows
        if self._sharing:
            table = torch.cat([prompt_lengths[:, None], prompt_tokens], 1)
            first, self._place = distinct_rows(table)
        padding = left_padding(prompt_tokens, prompt_lengths)
        self._model = model
        self._cache: DynamicCache | None = None
        if batching.cache:
            self._cache = reserved_cache(model.config, prompt_tokens.shape[1] + max_new_tokens)
        self._inputs = prompt_tokens[first]
        self._attention = None if padding is None else padding[first]
        self._position = None if padding is None else positions(padding[first])

    @property
    def _shared(self) -> bool:
        return len(self._inputs) < len(self.rows)

    def step(self) -> tuple[Tensor, Tensor]:
        """Next-token logits `(n, V)` and final hidden states `(n, H)`."""
        # What autograd notes of every operation, to be told of a later use, is a few percent of a
        # small model's step.
        with torch.inference_mode():
            logits, hidden = self._step()
        return (logits[self._place], hidden[self._place]) if self._shared else (logits, hidden)

    def _step(self) -> tuple[Tensor, Tensor]:
        options = padded_inputs(self._model, self._attention, self._position)
        if self._cache is None:
            return last_logits(self._model, input_ids=self._inputs, use_cache=False, **options)
        return last_logits(
            self._model,
            input_ids=self._inputs,
            use_cache=True,
            **cache_input(self._model, self._cache),
            **options,
        )

    def end(self, choice: Tensor, stop: Tensor) -> int:
        """End the sequences whose `choice` `(n, 1)` is a stop token; the number of live ones."""
        self.live = self.live & ~torch.isin(choice[:, 0], stop)
        return int(self.live.sum())

    def advance(self, choice: Tensor, left: int) -> None:
        """Append `choice` `(n, 1)` to the sequences, of which `left` are live.

        While no row is shared, ended sequences are dropped only when there are enough of them to
        be worth a copy of the cache. Rows are shared only while enough of them are equal.
        """
        live = self.live
        if not self._sharing or (not self._shared and left >= COMPACT_BELOW * len(live)):
            self._append(choice)
            return
        self.rows, parent, choice = self.rows[live], self._place[live], choice[live]
        self.live = live[live]
        first, self._place = distinct_rows(torch.cat([parent[:, None], choice], 1))
        if len(first) > SHARE_BELOW * len(self.rows):
            first = self._place = torch.arange(len(self.rows), device=self.rows.device)
        self._select(parent[first])
        self._append(choice[first])

    def _select(self, rows: Tensor) -> None:
        if self._cache is None:
            self._inputs = self._inputs[rows]
        else:
            select_rows(self._cache, rows)
        if self._attention is not None and self._position is not None:
            self._attention, self._position = self._attention[rows], self._position[rows]

    def _append(self, choice: Tensor) -> None:
        self._inputs = choice if self._cache is not None else torch.cat([self._inputs, choice], 1)
        if self._attention is not None and self._position is not None:
            self._attention = torch.cat([self._attention, torch.ones_like(choice).bool()], 1)
            following = self._position[:, -1:] + 1
            if self._cache is None:
                following = torch.cat([self._position, following], 1)
            self._position = following
