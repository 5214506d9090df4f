"""Loops that processes share, as a program: what one of the processes computes, into a file.

Usage: shared_loops.py RANK COUNT FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from support import train_config
from torch import Tensor

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.runs.assembly import assemble_evaluator, assemble_loop
from klvi.samplers.base import Sampler
from klvi.samples import Draw
from klvi.targets.base import Target

# Odd, so that the shards of two processes differ in size.
BATCH, UPDATES = 33, 4
OBJECTIVES: dict[str, dict[str, Any]] = {
    "kl": {"name": "kl"},
    "kl in minibatches": {"name": "kl", "minibatches": 3, "kl_stop": 0.05},
    "kl whitened": {"name": "kl", "whiten_advantages": True},
    "gdc": {"name": "gdc"},
    "gdc adaptive": {"name": "gdc", "epochs": 2},
}


class WholeDraw(Sampler):
    """Draws all rows of the batch whoever asks, and returns those that were asked for."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def sample(
        self, policy: Policy, target: Target, contexts: Sequence[Context], randomness: Randomness
    ) -> Draw:
        first = randomness.first_row
        every = [contexts[0]] * BATCH
        draw = self.sampler.sample(policy, target, every, replace(randomness, first_row=0))
        rows = torch.arange(first, first + len(contexts))
        return replace(draw, samples=draw.samples.select(rows))

    def adapt(self, draw: Draw, log_target: Tensor, log_policy: Callable[[], Tensor]) -> None:
        self.sampler.adapt(draw, log_target, log_policy)


class FailsHere:
    """A reward that fails in the second process."""

    name = "failing"

    def __call__(self, texts: list[str], contexts: list[Context]) -> list[float]:
        if torch.distributed.get_rank() == 1:
            raise RuntimeError("no reward here")
        return [0.0] * len(texts)


def trained(objective: str) -> dict[str, Any]:
    """The weights and records of a loop, and an evaluation at its end."""
    config = train_config(
        objective=OBJECTIVES[objective],
        proposal={"name": "adaptive" if "adaptive" in objective else "policy"},
        reward={"name": "letters"},
        batch_size=BATCH,
        updates=UPDATES,
        optim={"lr": 0.005},
        evaluation={"samples": 65, "prior_samples": 65, "ess_floor": 2},
    )
    evaluator = assemble_evaluator(config, adapted=True)
    loop = assemble_loop(config, evaluator)
    loop.proposal = WholeDraw(loop.proposal)
    start = loop.policy.snapshot().adapter_parameters()
    records: list[dict[str, Any]] = []
    loop.on_update.append(records.append)
    loop.run()
    metrics, draw = evaluator.measure(UPDATES)
    return {
        "start": start,
        "weights": [p.detach().clone() for p in loop.policy.parameters()],
        "records": records,
        "metrics": {name: metric.to_json() for name, metric in metrics.items()},
        "texts": draw.samples.texts,
    }


def failure() -> str:
    """How a loop ends whose reward fails in one of two processes."""
    config = train_config(batch_size=BATCH)
    evaluator = assemble_evaluator(config, adapted=True)
    loop = assemble_loop(config, evaluator)
    loop.target = replace(loop.target, reward=FailsHere())
    try:
        loop.run()
    except UserError as error:
        return str(error)
    return "no failure"


def main() -> None:
    rank, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count
    )
    found: dict[str, Any] = {name: trained(name) for name in OBJECTIVES}
    torch.save(found | {"failure": failure()}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
