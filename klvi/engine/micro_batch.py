"""Completions cut into what one forward pass takes, and what a model says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from klvi.engine.batching import Batching
from klvi.engine.scoring import left_padding, padded_inputs, selected_logits, token_log_probs
from klvi.samples import Completions


@dataclass(frozen=True)
class MicroBatch:
    """n completions, and the inputs of one forward pass over them: u, as equal ones are made once.

    Attributes:
        rows: `(n,)` which of the completions that were cut.
        tokens: `(n, T)`, padded on the right.
        mask: `(n, T)` bool, True at the completions' tokens.
        inputs: `(u, P + T − 1)`, prompts and all tokens of completions but the last.
        attention: `(u, P + T − 1)` bool, True at real inputs; None where no prompt is padded.
        wanted: `(u, T)` bool, after which of the last T inputs a model's view is wanted.
        places: `(m,)` at which of these views each token in `mask` is; None where all are, in turn.
    """

    rows: Tensor
    tokens: Tensor
    mask: Tensor
    inputs: Tensor
    attention: Tensor | None
    wanted: Tensor
    places: Tensor | None

    @staticmethod
    def of(
        completions: Completions,
        rows: Tensor | None = None,
        distinct: Tensor | None = None,
        place: Tensor | None = None,
    ) -> MicroBatch:
        """Of the completions at `rows` `(n,)`, all by default.

        Args:
            distinct: `(u,)` those whose inputs they have; by default each its own.
            place: `(n,)` which of `distinct`; None where n = u, in order.
        """
        lengths = completions.lengths
        rows = torch.arange(len(lengths), device=lengths.device) if rows is None else rows
        distinct = rows if distinct is None else distinct
        mask, wanted, places = completions.mask[rows], completions.mask[distinct], None
        if place is not None:
            number = wanted.reshape(-1).cumsum(0).sub(1).view_as(wanted)
            places = number[place][mask]
        prompts = completions.prompt_tokens[distinct]
        padding = left_padding(prompts, completions.prompt_lengths[distinct])
        return MicroBatch(
            rows=rows,
            tokens=completions.tokens[rows],
            mask=mask,
            inputs=torch.cat([prompts, completions.tokens[distinct, :-1]], 1),
            attention=None if padding is None else torch.cat([padding, wanted[:, :-1]], 1),
            wanted=wanted,
            places=places,
        )

    def forward(self, model: PreTrainedModel) -> NextTokens:
        """One pass; the output embedding is applied where the completions' tokens come next.

        No tensor of shape `(N, T, V)` exists. Padding is on the outside, so that no mask is needed
        where all prompts are equally long, and left padding is masked and skipped by position ids.
        """
        states, scores = selected_logits(
            model,
            lambda states: states[:, -self.wanted.shape[1] :][self.wanted][None],
            input_ids=self.inputs,
            use_cache=False,
            **padded_inputs(model, self.attention),
        )
        # Views: the gradient of an index would be a second tensor of this size, filled with zeros.
        hidden, logits = states.squeeze(0), scores.squeeze(0)
        return NextTokens(self, logits if logits.dtype == torch.float64 else logits.float(), hidden)


@dataclass(frozen=True)
class NextTokens:
    """A model's v views where the tokens of a micro-batch come next, in row-major order.

    Attributes:
        batch: the micro-batch.
        logits: `(v, V)`, float32 at least.
        hidden: `(v, H)`, what the output embedding reads.
    """

    batch: MicroBatch
    logits: Tensor
    hidden: Tensor

    def log_probs(self) -> Tensor:
        """`(n, T)` log-probabilities of the tokens, nats, 0 in padded places; differentiable."""
        batch = self.batch
        return self._unpack(token_log_probs(self.logits, batch.tokens[batch.mask], batch.places))

    def per_token(self, values: Tensor) -> Tensor:
        """What is said of the views `(v,)` at every token, `(n, T)`, 0 in padded places."""
        places = self.batch.places
        return self._unpack(values if places is None else values[places])

    def _unpack(self, values: Tensor) -> Tensor:
        mask = self.batch.mask
        return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(
            mask, values
        )


def micro_batches(
    completions: Completions, budget: int, batching: Batching
) -> Iterator[MicroBatch]:
    """All completions, once, in passes of at most `budget` input tokens, or a single input."""
    first, place = completions.distinct_inputs()
    lengths, prompts = completions.lengths[first], completions.prompt_lengths[first]
    for part in batching.together(prompts):
        for batch in token_batches(lengths[part], int(prompts[part].max()), budget):
            chosen = part[batch]
            cut = completions.trimmed(int(prompts[chosen].max()), int(lengths[chosen].max()))
            if len(first) == len(completions):
                yield MicroBatch.of(cut, first[chosen])
                continue
            order = torch.full_like(first, -1)
            order[chosen] = torch.arange(len(chosen), device=chosen.device)
            rows = (order[place] >= 0).nonzero()[:, 0]
            yield MicroBatch.of(cut, rows, first[chosen], order[place[rows]])


def token_batches(lengths: Tensor, prompt_width: int, budget: int) -> list[Tensor]:
    """Rows `(n,)` of each forward pass, all N once: longest first, of similar length together.

    A pass has at most `budget` tokens, padding included, or a single row. Its memory is bounded
    then, whatever the batch and the length are, and little is spent on padding.

    Args:
        lengths: `(N,)`.
        prompt_width: columns of the prompts.
        budget: such as `pass_budget` of the model.
    """
    order = lengths.argsort(descending=True, stable=True)
    sizes = (lengths[order] + prompt_width).tolist()
    batches, start = [], 0
    while start < len(sizes):
        count = max(budget // sizes[start], 1)
        batches.append(order[start : start + count])
        start += count
    return batches
