"""Decoding by torch: a key-value cache, rows shared by equal sequences, ended ones left out.

Written out, not `generate`, so that nothing in a model's own generation config (temperature,
top-k, penalties, minimal length) can part the sampler from the log-probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from klvi.engine.base import Decoded, Prefixes, View, complete_by_length, tokens_at
from klvi.engine.cache import reserved_cache, select_rows
from klvi.engine.scoring import cache_input, left_padding, padded_inputs, positions, selected_logits
from klvi.samples import distinct_rows

# Of the rows of a step: how many must be live to leave the ended ones in, and how few must be
# distinct to be shared. Either spares or costs a copy of the whole cache.
COMPACT_BELOW, SHARE_BELOW = 0.75, 0.9


class TorchEngine:
    """The engine that runs any model on any device, step by step too."""

    name = "torch"
    exact_log_probs = True
    by_row = True

    def complete(self, view: View, prefixes: Prefixes, uniforms: Tensor) -> Decoded:
        """See `Engine.complete`; N completions of one prefix cost one pass over it."""
        return complete_by_length(_complete, view, prefixes, uniforms)

    def start(self, view: View, prefixes: Prefixes, max_new_tokens: int) -> TorchDecoding:
        """See `Engine.start`."""
        return TorchDecoding(view, prefixes, max_new_tokens)


class TorchDecoding:
    """See `klvi.engine.base.Decoding`."""

    def __init__(self, view: View, prefixes: Prefixes, max_new_tokens: int) -> None:
        """Raises ValueError for prefixes of unequal length where the view allows no padding."""
        self._model, self._batching = view.model, view.batching
        self._capacity = prefixes.tokens.shape[1] + max_new_tokens
        self._attention = left_padding(prefixes.tokens, prefixes.lengths)
        if self._attention is not None and not view.batching.padding:
            raise ValueError("this model takes no padding: start prefixes of one length together")
        # What the cache does not hold yet.
        self._inputs = prefixes.tokens
        self._cache = self._empty_cache()
        # What a cache whose rows cannot be rearranged is made of anew.
        rigid = view.batching.cache and not view.batching.sharing
        self._whole = prefixes.tokens if rigid else None
        self._next: tuple[Tensor, Tensor] | None = None
        # Which rows of `_next` are wanted; all where None.
        self._rows: Tensor | None = None

    def _empty_cache(self) -> DynamicCache | None:
        return reserved_cache(self._model.config, self._capacity) if self._batching.cache else None

    def log_next(self) -> Tensor:
        """See `Decoding.log_next`."""
        return self._wanted(self._read()[0])

    def hidden(self) -> Tensor:
        """See `Decoding.hidden`."""
        return self._wanted(self._read()[1])

    def append(self, tokens: Tensor) -> None:
        """See `Decoding.append`."""
        self._catch_up()
        column = tokens[:, None]
        self._inputs = torch.cat([self._inputs, column], 1)
        if self._whole is not None:
            self._whole = torch.cat([self._whole, column], 1)
        if self._attention is not None:
            self._attention = torch.cat([self._attention, torch.ones_like(column).bool()], 1)
        self._next = self._rows = None

    def select(self, rows: Tensor) -> None:
        """See `Decoding.select`."""
        self._catch_up()
        self._inputs = self._inputs[rows]
        self._rows = rows if self._rows is None else self._rows[rows]
        if self._attention is not None:
            self._attention = self._attention[rows]
        if self._whole is not None:
            self._whole = self._inputs = self._whole[rows]
            self._cache = self._empty_cache()
        elif self._cache is not None:
            select_rows(self._cache, rows)

    def _catch_up(self) -> None:
        """Let the cache hold all tokens: states of recurrent layers go on by one at a time."""
        if self._cache is not None:
            self._read()

    def _wanted(self, values: Tensor) -> Tensor:
        return values if self._rows is None else values[self._rows]

    def _read(self) -> tuple[Tensor, Tensor]:
        """`log_next` and `hidden`, from a pass over what the cache does not hold yet."""
        if self._next is None:
            # What autograd notes of every operation, to be told of a later use, is a few percent of
            # a small model's step.
            with torch.inference_mode():
                logits, hidden = self._pass()
                self._next = logits.float().log_softmax(-1), hidden
            self._rows = None
            if self._cache is not None:
                self._inputs = self._inputs[:, :0]
        return self._next

    def _pass(self) -> tuple[Tensor, Tensor]:
        position = None
        if self._attention is not None:
            position = positions(self._attention)[:, -self._inputs.shape[1] :]
        options: dict[str, Any] = padded_inputs(self._model, self._attention, position)
        if self._cache is not None:
            options |= cache_input(self._model, self._cache)
        return last_logits(
            self._model, input_ids=self._inputs, use_cache=self._cache is not None, **options
        )


def last_logits(model: PreTrainedModel, **inputs: Any) -> tuple[Tensor, Tensor]:
    """Next-token logits `(n, V)` and final hidden states `(n, H)` after the last of the inputs."""
    states, logits = selected_logits(model, lambda states: states[:, -1:], **inputs)
    return logits[:, -1], states[:, 0].float()


@torch.no_grad()
def _complete(view: View, prefixes: Prefixes, uniforms: Tensor) -> Decoded:
    device = prefixes.tokens.device
    stop = torch.tensor(view.stop_token_ids, device=device)
    numbers = uniforms.to(device) if device.type != "mps" else uniforms
    steps = uniforms.shape[1]
    batch = _Batch(view, prefixes, steps)
    columns: list[_Column] = []
    for t in range(steps):
        log_next = batch.decoding.log_next()
        token = tokens_at(log_next, numbers[batch.rows.to(numbers.device), t], batch.shared_place)
        value = None
        if view.value_of is not None:
            value = view.value_of(batch.decoding.hidden())[batch.place]
        columns.append(_Column(batch.rows, batch.live, token, log_next[batch.place, token], value))
        left = batch.end(token, stop)
        if left == 0 or t + 1 == steps:
            break
        batch.advance(token, left)
    running = torch.zeros_like(prefixes.lengths).bool()
    running[batch.rows] = batch.live
    return _decoded(columns, ~running, view.stop_token_ids[0])


@dataclass(frozen=True)
class _Column:
    """What one step gave the n sequences of a batch; all `(n,)`.

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
    """The sequences still decoded; those that are equal so far share a row of the decoding.

    Attributes:
        decoding: of the distinct sequences.
        rows: `(n,)` which of the N sequences they are.
        live: `(n,)` bool, which of them have not ended.
        place: `(n,)` which row of the decoding each has.
    """

    def __init__(self, view: View, prefixes: Prefixes, steps: int) -> None:
        self.rows = torch.arange(len(prefixes), device=prefixes.tokens.device)
        self.live = torch.ones_like(prefixes.lengths).bool()
        # What is computed anew can be rearranged at will.
        self._sharing = view.batching.sharing or not view.batching.cache
        first = self.place = self.rows
        if self._sharing:
            table = torch.cat([prefixes.lengths[:, None], prefixes.tokens], 1)
            first, self.place = distinct_rows(table)
        self._distinct = len(first)
        self.decoding = TorchDecoding(view, prefixes.select(first), steps)

    @property
    def shared_place(self) -> Tensor | None:
        """`place`, or None where no row is shared."""
        return self.place if self._distinct < len(self.rows) else None

    def end(self, token: Tensor, stop: Tensor) -> int:
        """End the sequences whose `token` `(n,)` is a stop token; the number of live ones."""
        self.live = self.live & ~torch.isin(token, stop)
        return int(self.live.sum())

    def advance(self, token: Tensor, left: int) -> None:
        """Append `token` `(n,)` to the sequences, of which `left` are live.

        While no row is shared, ended sequences are dropped only when there are enough of them to
        be worth a copy of the cache. Rows are shared only while enough of them are equal.
        """
        live, shared = self.live, self.shared_place is not None
        if not self._sharing or (not shared and left >= COMPACT_BELOW * len(live)):
            self.decoding.append(token)
            return
        self.rows, parent, token = self.rows[live], self.place[live], token[live]
        self.live = live[live]
        first, self.place = distinct_rows(torch.stack([parent, token], 1))
        if len(first) > SHARE_BELOW * len(self.rows):
            first = self.place = torch.arange(len(self.rows), device=self.rows.device)
        self._distinct = len(first)
        self.decoding.select(parent[first])
        self.decoding.append(token[first])
