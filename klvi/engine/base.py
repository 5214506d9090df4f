"""The one protocol of all engines: tokens sampled at temperature 1, nothing truncated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from klvi.engine.batching import Batching

FASTEST = Batching()


@dataclass(frozen=True)
class View:
    """A model as an engine decodes it: a prior, a policy with merged weights, a snapshot of one.

    Attributes:
        model: whatever is done to other views of its weights leaves it as it is.
        stop_token_ids: a completion ends with the first of these.
        value_of: values `(n,)` of final hidden states `(n, H)`; None where none are wanted.
        batching: how passes of this model may be arranged.
    """

    model: PreTrainedModel
    stop_token_ids: tuple[int, ...]
    value_of: Callable[[Tensor], Tensor] | None = None
    batching: Batching = FASTEST


@dataclass(frozen=True)
class Prefixes:
    """What is to be completed: `tokens` `(N, P)`, padded on the left, of `lengths` `(N,)`."""

    tokens: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, rows: Tensor) -> Prefixes:
        """Those at `rows` `(n,)`, without columns that are padding in all of them."""
        lengths = self.lengths[rows]
        return Prefixes(self.tokens[rows, -int(lengths.max()) :], lengths)


@dataclass(frozen=True)
class Decoded:
    """Sampled completions.

    Attributes:
        tokens: `(N, T)`, T the longest; what stands in padded places, on the right, is arbitrary.
        lengths: `(N,)`, the stop token included.
        ended: `(N,)` bool, whether a stop token was sampled.
        log_probs: `(N, T)`, nats per token, of what they were drawn from, 0 in padded places; None
            where the engine gives none.
        values: `(N, T)` of each prefix; None where the view has no `value_of`.
    """

    tokens: Tensor
    lengths: Tensor
    ended: Tensor
    log_probs: Tensor | None
    values: Tensor | None

    @staticmethod
    def concatenate(parts: Sequence[Decoded], order: Tensor | None = None) -> Decoded:
        """The rows of all parts; that of row i is `order[i]`, in turn by default."""
        if len(parts) == 1:
            return parts[0]
        longest = max(part.tokens.shape[1] for part in parts)
        place = slice(None) if order is None else order.argsort()

        def joined(values: Sequence[Tensor | None]) -> Tensor | None:
            given = [value for value in values if value is not None]
            if len(given) < len(parts):
                return None
            return torch.cat([pad(v, (0, longest - v.shape[1])) for v in given])[place]

        tokens = joined([part.tokens for part in parts])
        assert tokens is not None, "every part has tokens"
        return Decoded(
            tokens=tokens,
            lengths=torch.cat([part.lengths for part in parts])[place],
            ended=torch.cat([part.ended for part in parts])[place],
            log_probs=joined([part.log_probs for part in parts]),
            values=joined([part.values for part in parts]),
        )


class Decoding(Protocol):
    """n sequences on their way, a step at a time, in the caller's hands."""

    def log_next(self) -> Tensor:
        """`(n, V)` log-probabilities of the next token, nats, float32."""
        ...

    def hidden(self) -> Tensor:
        """`(n, H)` final hidden states after the last token, float32, for values and twists."""
        ...

    def append(self, tokens: Tensor) -> None:
        """Add a token `(n,)` to each sequence."""
        ...

    def select(self, rows: Tensor) -> None:
        """Go on with the sequences at `rows` `(m,)`, of which one may be named more than once."""
        ...


class Engine(Protocol):
    """What samples from a view of a model.

    Attributes:
        name: as on the command line.
        exact_log_probs: whether its log-probabilities are those that training computes, but for
            rounding in the model's own precision.
        by_row: whether a row's tokens follow from the row's uniform numbers, whatever else is in
            the batch; an engine that is not seeds itself from them.
    """

    name: str
    exact_log_probs: bool
    by_row: bool

    def complete(self, view: View, prefixes: Prefixes, uniforms: Tensor) -> Decoded:
        """A completion of each of N prefixes, of at most T tokens.

        Args:
            uniforms: `(N, T)` in [0, 1), float64: a token is where a row's number for the step
                falls in the cumulative next-token probabilities.
        """
        ...

    def start(self, view: View, prefixes: Prefixes, max_new_tokens: int) -> Decoding:
        """N prefixes to be decoded step by step, with room for `max_new_tokens` tokens each.

        Raises UserError where the engine cannot.
        """
        ...


def complete_by_length(
    complete: Callable[[View, Prefixes, Tensor], Decoded],
    view: View,
    prefixes: Prefixes,
    uniforms: Tensor,
) -> Decoded:
    """`complete` for all prefixes at once or, where the view allows no padding, by their length."""
    parts = view.batching.together(prefixes.lengths)
    if len(parts) == 1:
        return complete(view, prefixes, uniforms)
    found = [
        complete(view, prefixes.select(rows), uniforms[rows.to(uniforms.device)]) for rows in parts
    ]
    return Decoded.concatenate(found, torch.cat(parts))


def tokens_at(log_probs: Tensor, uniforms: Tensor, rows: Tensor | None = None) -> Tensor:
    """The tokens `(n,)` at `uniforms` `(n,)` of the cumulative probabilities, in float64.

    The sum of all is where a number of 1 would fall, so that rounding of `log_probs` cannot leave
    one without a token. A token of probability 0 is never drawn.

    Args:
        log_probs: `(m, V)`, nats.
        rows: `(n,)` which of the m each number is for; None where m = n, in order.
    """
    if log_probs.device.type == "mps":  # which has no float64
        rows = None if rows is None else rows.cpu()
        return tokens_at(log_probs.cpu(), uniforms.cpu(), rows).to(log_probs.device)
    cumulative = log_probs.double().exp_().cumsum_(1)
    if rows is not None:
        cumulative = cumulative[rows]
    places = uniforms[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, places, right=True)[:, 0]
    # Of a policy that is spoiled, NaN, all tokens come too late: its log-probabilities tell of it.
    return chosen.clamp_max_(log_probs.shape[1] - 1)
