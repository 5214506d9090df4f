"""An update of `gdc` against its necessary parts, each timed alone, in turn in one process.

The parts are decoding, one pass of the prior, and one forward and backward pass, on klvi's own
functions: the ratio says what the loop, the loss and the optimizer add. Seconds are CPU seconds
where the device is the CPU.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import torch

from klvi.contexts import contexts_of
from klvi.engine.base import Prefixes
from klvi.engine.micro_batch import MicroBatch, token_batches
from klvi.engine.scoring import pass_budget
from klvi.randomness import Randomness
from klvi.samples import Completions
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
        completions = _decode(loop, update)
        marks.append(clock())
        _prior_pass(loop, completions)
        marks.append(clock())
        _forward_and_backward(loop, completions)
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


def _decode(loop: Loop, seed: int) -> Completions:
    policy = loop.policy
    prompts = Prefixes(*policy.prior.encode(contexts_of([""] * loop.settings.batch_size)))
    with policy.merged() as model:
        rows = torch.arange(loop.settings.batch_size)
        steps = loop.ancestral.max_new_tokens
        uniforms = Randomness("bench", (seed,), seed).uniforms(rows, steps)
        decoded = policy.engine.complete(policy.view(model), prompts, uniforms)
    return Completions(prompts.tokens, prompts.lengths, decoded.tokens, decoded.lengths)


@torch.no_grad()
def _prior_pass(loop: Loop, completions: Completions) -> None:
    for batch in _micro_batches(loop, completions):
        batch.forward(loop.policy.prior.model).log_probs()


def _forward_and_backward(loop: Loop, completions: Completions) -> None:
    for batch in _micro_batches(loop, completions):
        loop.optimisation.backward(batch.forward(loop.policy.model).log_probs().sum())
    loop.optimisation.optimizer.zero_grad()


def _micro_batches(loop: Loop, completions: Completions) -> Iterator[MicroBatch]:
    """Of all completions, also of equal ones."""
    width, lengths = completions.prompt_tokens.shape[1], completions.lengths
    for rows in token_batches(lengths, width, pass_budget(loop.policy.model)):
        yield MicroBatch.of(completions.trimmed(width, int(lengths[rows].max())), rows)
