"""A draw that processes share: each completes its rows of the contexts, and all get all samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.errors import RunError, UserError
from klvi.policy.policy import Policy
from klvi.processes import Processes
from klvi.randomness import Randomness
from klvi.samplers.base import Sampler
from klvi.samples import Cost, Draw, Samples
from klvi.targets.base import Target


def sample_sharded(
    processes: Processes,
    sampler: Sampler,
    policy: Policy,
    target: Target,
    contexts: Sequence[Context],
    randomness: Randomness,
) -> Draw:
    """As `sampler.sample` of all contexts, in their order, on every process.

    Raises UserError where the sampler gives anything else, ValueError where there are fewer
    contexts than processes, and RunError where another process failed: one that waited for it would
    wait for ever.
    """
    if processes.count == 1:
        return _checked(sampler.sample(policy, target, contexts, randomness), sampler, contexts)
    if len(contexts) < processes.count:
        raise ValueError(f"{len(contexts)} contexts are too few for {processes.count} processes")
    shard = processes.shard(len(contexts))
    own = replace(randomness, first_row=randomness.first_row + shard.start)
    draw, failure = None, None
    try:
        rows = contexts[shard.start : shard.stop]
        drawn = _checked(sampler.sample(policy, target, rows, own), sampler, rows)
        draw = replace(drawn, samples=on_device(drawn.samples, "cpu"))
    except Exception as error:
        failure = error
    draws = processes.gather(draw)
    if failure is not None:
        raise failure
    found = [each for each in draws if each is not None]
    if len(found) < processes.count:
        raise RunError(f"process {draws.index(None)} failed while sampling")
    return joined(found, policy.device)


def _checked(draw: Draw, sampler: Sampler, contexts: Sequence[Context]) -> Draw:
    name = f"{type(sampler).__name__}.sample"
    if not isinstance(draw, Draw):
        raise UserError(f"{name}: gave a {type(draw).__name__}; return a klvi.samples.Draw")
    if len(draw.samples) != len(contexts):
        raise UserError(
            f"{name}: gave {len(draw.samples)} completions of {len(contexts)} contexts; return one "
            "of each, in their order"
        )
    weight = draw.samples.log_weight
    if weight is not None and bool(weight.isnan().any()):
        raise UserError(f"{name}: gave log weights that are not numbers; see its log_weight")
    return draw


def joined(draws: Sequence[Draw], device: torch.device) -> Draw:
    """Draws of consecutive rows as one, on `device`: costs add up, `info` is averaged over rows."""
    sizes = [len(draw.samples) for draw in draws]
    names = dict.fromkeys(name for draw in draws for name in draw.info)
    info = {
        name: sum(size * draw.info[name] for size, draw in zip(sizes, draws, strict=True))
        / sum(sizes)
        for name in names
    }
    return Draw(
        on_device(Samples.concatenate([draw.samples for draw in draws]), device),
        represents=draws[0].represents,
        info=info,
        cost=Cost(
            tokens=sum(draw.cost.tokens for draw in draws),
            rewards=sum(draw.cost.rewards for draw in draws),
        ),
    )


def on_device(samples: Samples, device: torch.device | str) -> Samples:
    """The samples with all their tensors on `device`."""
    values: dict[str, Any] = {f.name: getattr(samples, f.name) for f in fields(samples)}
    moved: dict[str, Any] = {
        name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)
    }
    moved["scores"] = {name: scores.to(device) for name, scores in samples.scores.items()}
    return Samples(**values | moved)
