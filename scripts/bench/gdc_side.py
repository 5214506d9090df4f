"""An update of `gdc` against its necessary parts, each timed alone, in turn in one process.

The parts are decoding, one pass of the prior, and one forward and backward pass, on klvi's own
functions: the ratio says what the loop, the loss and the optimizer add. Seconds are CPU seconds
where the device is the CPU.
"""

from __future__ import annotations

import itertools
import time

import torch
from torch import Tensor
from transformers import PreTrainedModel

from klvi.contexts import contexts_of
from klvi.engine.base import Decoded
from klvi.engine.scoring import (
    Completions,
    next_tokens,
    pass_budget,
    token_batches,
    token_log_probs,
)
from klvi.randomness import Randomness
from klvi.training.loop import Loop
from scripts.bench.klvi_side import assemble
from scripts.bench.measurement import NECESSARY_PARTS, Measurement, Recorder
from scripts.bench.workload import Workload


def measure(workload: Workload) -> Measurement:
    """Updates in `seconds`, their parts in `stages`."""
    recorder = Recorder(workload.device, 0)
    loop = assemble(workload)
    clock = time.process_time if workload.device == "cpu" else recorder.now
    result = Measurement()
    for update in range(workload.total_updates):
        started = clock()
        loop.step()
        marks = [clock()]
        prompts, decoded = _decode(loop, update)
        marks.append(clock())
        _prior_pass(loop, prompts, decoded)
        marks.append(clock())
        _forward_and_backward(loop, prompts, decoded)
        marks.append(clock())
        if update < workload.warmup:
            continue
        seconds = marks[0] - started
        result.seconds.append(seconds)
        result.cpu_seconds.append(seconds)
        parts = [after - before for before, after in itertools.pairwise(marks)]
        result.stages.append(dict(zip(NECESSARY_PARTS, parts, strict=True)))
        result.tokens.append(workload.batch * workload.length)
    result.peak = recorder.finish().peak
    return result


def _decode(loop: Loop, seed: int) -> tuple[tuple[Tensor, Tensor], Decoded]:
    prior = loop.policy.prior
    prompts = prior.encode(contexts_of([""] * loop.settings.batch_size))
    with loop.policy.merged() as model:
        rows = torch.arange(loop.settings.batch_size)
        steps = loop.ancestral.max_new_tokens
        uniforms = Randomness("bench", (seed,), seed).uniforms(rows, steps)
        decoded = loop.policy.complete(model, prompts, uniforms)
    return prompts, decoded


@torch.no_grad()
def _prior_pass(loop: Loop, prompts: tuple[Tensor, Tensor], decoded: Decoded) -> None:
    budget = pass_budget(loop.policy.model)
    for rows in token_batches(decoded.lengths, prompts[0].shape[1], budget):
        _log_probs(loop.policy.prior.model, prompts, decoded, rows)


def _forward_and_backward(loop: Loop, prompts: tuple[Tensor, Tensor], decoded: Decoded) -> None:
    budget = pass_budget(loop.policy.model)
    for rows in token_batches(decoded.lengths, prompts[0].shape[1], budget):
        loop.optimisation.backward(_log_probs(loop.policy.model, prompts, decoded, rows).sum())
    loop.optimisation.optimizer.zero_grad()


def _log_probs(
    model: PreTrainedModel, prompts: tuple[Tensor, Tensor], decoded: Decoded, rows: Tensor
) -> Tensor:
    """`(n,)` log-probabilities, nats per token, of the completions at `rows`."""
    tokens = decoded.tokens[rows, : int(decoded.lengths[rows].max())]
    batch = Completions(prompts[0][rows], prompts[1][rows], tokens, decoded.lengths[rows])
    view = next_tokens(model, batch)
    return token_log_probs(view.logits, tokens[view.mask])
