"""Sampling from a causal LM at temperature 1, nothing truncated, log-probabilities on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from klvi.models.scoring import left_padding

COMPACT_BELOW = 0.75


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
) -> Decoded:
    """Ancestral sampling with a key-value cache; sequences that have ended leave the batch.

    Written out, not `generate`, so that nothing in a model's own generation config (temperature,
    top-k, penalties, minimal length) can part the sampler from the log-probabilities.

    Args:
        prompt_tokens: `(N, P)`, padded on the left; `prompt_lengths` `(N,)`.
        value_of: maps final hidden states `(n, H)` to `(n,)`.
    """
    count, device = len(prompt_tokens), prompt_tokens.device
    stop = torch.tensor(stop_token_ids, device=device)
    tokens = torch.full((count, max_new_tokens), stop_token_ids[0], device=device)
    log_probs = torch.zeros(count, max_new_tokens, device=device)
    values = torch.zeros_like(log_probs) if value_of else None
    lengths = torch.full((count,), max_new_tokens, device=device)
    ended = torch.zeros(count, dtype=torch.bool, device=device)
    rows = torch.arange(count, device=device)
    state = _State(model, prompt_tokens, left_padding(prompt_tokens, prompt_lengths))
    for t in range(max_new_tokens):
        logits, hidden = state.step()
        log_next = logits.float().log_softmax(-1)
        choice = sample_tokens(log_next, generator)
        live = ~ended[rows]
        tokens[rows, t] = torch.where(live, choice[:, 0], tokens[rows, t])
        log_probs[rows, t] = torch.where(live, log_next.gather(1, choice)[:, 0], 0.0)
        if values is not None and value_of is not None:
            values[rows, t] = torch.where(live, value_of(hidden), 0.0)
        stopped = live & torch.isin(choice[:, 0], stop)
        lengths[rows[stopped]] = t + 1
        ended[rows[stopped]] = True
        live = live & ~stopped
        alive = int(live.sum())
        if alive == 0:
            break
        keep = live.nonzero()[:, 0] if alive < COMPACT_BELOW * len(rows) else None
        rows = rows if keep is None else rows[keep]
        state.advance(choice, keep)
    longest = int(lengths.max())
    return Decoded(
        tokens[:, :longest],
        lengths,
        ended,
        log_probs[:, :longest],
        None if values is None else values[:, :longest],
    )


def sample_tokens(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """One token `(n, 1)` from each row of `log_probs` `(n, V)`, by inversion in float64.

    A token of probability 0 is never drawn. `torch.multinomial` would draw V random numbers a row.
    """
    cumulative = log_probs.double().exp().cumsum(1)
    uniform = torch.rand(
        len(log_probs), 1, dtype=torch.float64, device=log_probs.device, generator=generator
    )
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)


class _State:
    """The rows still decoded: cache, next input, and attention mask where prompts are padded."""

    def __init__(self, model: PreTrainedModel, tokens: Tensor, padding: Tensor | None) -> None:
        self.model = model
        self.head: nn.Module = model.get_output_embeddings()
        self.cache = DynamicCache(config=model.config)
        self.inputs = tokens
        self.attention = padding
        self.position = None if padding is None else (padding.cumsum(1) - 1).clamp_min(0)

    def step(self) -> tuple[Tensor, Tensor]:
        """Next-token logits `(n, V)` and final hidden states `(n, H)`."""
        options: dict[str, Tensor] = {}
        if self.attention is not None and self.position is not None:
            options = {"attention_mask": self.attention.long(), "position_ids": self.position}
        captured: list[Tensor] = []

        def last_only(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            captured.append(inputs[0][:, -1:])
            return (captured[0],)

        hook = self.head.register_forward_pre_hook(last_only)
        try:
            output = self.model(
                input_ids=self.inputs, past_key_values=self.cache, use_cache=True, **options
            )
        finally:
            hook.remove()
        return output.logits[:, -1], captured[0][:, 0].float()

    def advance(self, choice: Tensor, keep: Tensor | None) -> None:
        """Append `choice` `(n, 1)`; keep only the rows at `keep`, where given."""
        self.inputs = choice
        if self.attention is not None and self.position is not None:
            self.attention = torch.cat([self.attention, torch.ones_like(choice).bool()], 1)
            self.position = self.position[:, -1:] + 1
        if keep is None:
            return
        self.cache.batch_select_indices(keep)
        self.inputs = self.inputs[keep]
        if self.attention is not None and self.position is not None:
            self.attention, self.position = self.attention[keep], self.position[keep]
