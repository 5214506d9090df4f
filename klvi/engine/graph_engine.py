"""Decoding in fixed shapes, so that a GPU can replay a step without Python between its kernels.

A step of a small model on a GPU is hundreds of kernels of a few microseconds each, and launching
them from Python takes several times longer. Recorded once per rollout as a CUDA graph, they are
launched together. For that every tensor of a step keeps its place and its shape: sequences that
have ended stay in the batch, keys and values have their final size from the start, and random
numbers are drawn beforehand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from klvi.engine.base import Decoded, Decoding, Prefixes, View, complete_by_length, tokens_at
from klvi.engine.memory import is_out_of_memory
from klvi.engine.scoring import left_padding, padded_inputs
from klvi.engine.torch_engine import last_logits
from klvi.errors import UserError

# Steps between two looks at whether all sequences have ended: each look waits for the GPU.
STEPS_UNSEEN = 8
# Steps as they are, in which libraries allocate what they keep; the next one is recorded.
PLAIN_STEPS = 2


class GraphEngine:
    """The engine whose steps, all but the first two, are one CUDA graph."""

    name = "graph"
    exact_log_probs = True
    by_row = True

    def complete(self, view: View, prefixes: Prefixes, uniforms: Tensor) -> Decoded:
        """See `Engine.complete`.

        Raises UserError where the model's cache cannot be fixed, or its step not be recorded.
        """
        return complete_by_length(_complete, view, prefixes, uniforms)

    def start(self, view: View, prefixes: Prefixes, max_new_tokens: int) -> Decoding:
        """Raises UserError: what is recorded cannot be steered."""
        raise UserError(
            "engine=graph: decodes whole completions only, not step by step; use engine=torch"
        )


@torch.no_grad()
def _complete(view: View, prefixes: Prefixes, uniforms: Tensor) -> Decoded:
    sequences = _Sequences(view, prefixes, uniforms)
    sequences.begin()
    step: Callable[[], None] = sequences.step
    for t in range(1, uniforms.shape[1]):
        if t % STEPS_UNSEEN == 0 and bool(sequences.ended.all()):
            break
        if t == PLAIN_STEPS and prefixes.tokens.is_cuda:
            step = _recorded(step)
        step()
    return sequences.decoded()


class _Sequences:
    """N sequences in tensors that are only ever written into.

    Attributes:
        ended: `(N,)` bool.
    """

    def __init__(self, view: View, prefixes: Prefixes, uniforms: Tensor) -> None:
        prompt_tokens, prompt_lengths = prefixes.tokens, prefixes.lengths
        (count, width), device = prompt_tokens.shape, prompt_tokens.device
        model, stop_token_ids, max_new_tokens = view.model, view.stop_token_ids, uniforms.shape[1]
        self._model = model
        self._prompt = prompt_tokens
        self._padding = left_padding(prompt_tokens, prompt_lengths)
        self._stop = torch.tensor(stop_token_ids, device=device)
        self._tokens = torch.full((count, max_new_tokens), stop_token_ids[0], device=device)
        self._log_probs = torch.zeros(count, max_new_tokens, device=device)
        self._values = torch.zeros_like(self._log_probs)
        self._lengths = torch.zeros(count, dtype=torch.long, device=device)
        self.ended = torch.zeros(count, dtype=torch.bool, device=device)
        self._uniforms = uniforms.T.contiguous().to(device)
        self._value_of = view.value_of
        self._inputs = torch.zeros(count, 1, dtype=torch.long, device=device)
        # Where a step writes: the number of the new token, the column of the last one's keys and
        # values, its position.
        self._time = torch.zeros(1, dtype=torch.long, device=device)
        self._column = torch.full((1,), width, device=device)
        self._position = prompt_lengths[:, None].clone()
        self._cache = _fixed_cache(model, width + max_new_tokens, self._column)
        self._attention = torch.full(
            (count, 1, 1, width + max_new_tokens),
            torch.finfo(model.dtype).min,
            dtype=model.dtype,
            device=device,
        )
        real = torch.ones_like(prompt_tokens).bool() if self._padding is None else self._padding
        self._attention[:, 0, 0, :width].masked_fill_(real, 0.0)

    def begin(self) -> None:
        """Read the prompts and take the first tokens."""
        self._take(
            *last_logits(
                self._model,
                input_ids=self._prompt,
                past_key_values=self._cache,
                use_cache=True,
                **padded_inputs(self._model, self._padding),
            )
        )

    def step(self) -> None:
        """Read the last tokens and take the next."""
        self._attention.index_fill_(3, self._column, 0.0)
        logits, hidden = last_logits(
            self._model,
            input_ids=self._inputs,
            past_key_values=self._cache,
            use_cache=True,
            attention_mask=self._attention,
            position_ids=self._position,
        )
        self._column.add_(1)
        self._position.add_(1)
        self._take(logits, hidden)

    def _take(self, logits: Tensor, hidden: Tensor) -> None:
        log_next = logits.float().log_softmax(-1)
        numbers = self._uniforms.index_select(0, self._time)[0]
        choice = tokens_at(log_next, numbers)[:, None]
        live = ~self.ended[:, None]
        token = torch.where(live, choice, self._stop[0])
        self._write(self._tokens, token)
        self._write(self._log_probs, torch.where(live, log_next.gather(1, choice), 0.0))
        if self._value_of is not None:
            self._write(self._values, torch.where(live, self._value_of(hidden)[:, None], 0.0))
        self._lengths.add_(live[:, 0])
        self.ended.logical_or_((token == self._stop).any(1))
        self._inputs.copy_(token)
        self._time.add_(1)

    def _write(self, table: Tensor, column: Tensor) -> None:
        table.index_copy_(1, self._time, column)

    def decoded(self) -> Decoded:
        """What was sampled."""
        longest = int(self._lengths.max())
        return Decoded(
            self._tokens[:, :longest],
            self._lengths,
            self.ended,
            self._log_probs[:, :longest],
            None if self._value_of is None else self._values[:, :longest],
        )


def can_be_recorded(model: PreTrainedModel) -> bool:
    """Whether a model's cache can have a fixed size and its positions be written in place."""
    takes_positions = "position_ids" in inspect.signature(type(model).forward).parameters
    return takes_positions and not growing_layers(model.config)


def growing_layers(config: PretrainedConfig) -> list[str]:
    """The kinds of layers in a model's cache that cannot have their final size from the start."""
    layers = DynamicCache(config=config).layers
    return sorted({type(layer).__name__ for layer in layers if type(layer) is not DynamicLayer})


def _fixed_cache(model: PreTrainedModel, capacity: int, column: Tensor) -> DynamicCache:
    """A cache of `capacity` columns, of which a step writes the one at `column` `(1,)`."""
    cache = DynamicCache(config=model.config)
    others = growing_layers(model.config)
    if others:
        raise UserError(
            f"engine=graph: this model keeps {', '.join(others)}, which do not "
            "have a fixed size; use engine=torch"
        )
    cache.layers = [_FixedLayer(capacity, column) for _ in cache.layers]
    return cache


class _FixedLayer(DynamicLayer):
    """Keys and values of which the prompt's come first, and each later token's at `column`."""

    def __init__(self, capacity: int, column: Tensor) -> None:
        super().__init__()
        self._capacity, self._column = capacity, column

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write `(N, H, t, D)` keys and values; returns the prompt's, then all columns."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            # Columns not written yet are masked, but what they hold must be finite.
            room = (0, 0, 0, self._capacity - key_states.shape[2])
            self.keys = torch.nn.functional.pad(key_states, room)
            self.values = torch.nn.functional.pad(value_states, room)
            return key_states, value_states
        self.keys.index_copy_(2, self._column, key_states)
        self.values.index_copy_(2, self._column, value_states)
        return self.keys, self.values


def _recorded(step: Callable[[], None]) -> Callable[[], None]:
    """A function that launches on the GPU all that `step` would; `step` itself does nothing yet."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            graph.capture_begin()
            step()
            graph.capture_end()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"engine=graph: a step of this model cannot be recorded ({reason}); use engine=torch"
        ) from error
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay
