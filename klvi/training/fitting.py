"""A target's free parameters, estimated from samples."""

from __future__ import annotations

from klvi.policy.policy import Policy
from klvi.processes import Processes
from klvi.prompts.stream import PromptStream
from klvi.randomness import Randomness
from klvi.samplers.base import Sampler
from klvi.samplers.sharded import sample_sharded
from klvi.targets.base import Target


def refitted(
    target: Target,
    update: int,
    *,
    policy: Policy,
    sampler: Sampler,
    contexts: PromptStream,
    seed: int,
    processes: Processes,
) -> Target | None:
    """The target fitted before `update`, to the prior before 0; None where no fit is due then.

    Args:
        sampler: draws from the policy itself.
    """
    count = target.samples_to_fit(update)
    if not count:
        return None
    draw = sample_sharded(
        processes,
        sampler,
        policy if update else policy.without_adapter(),
        target,
        contexts.batch(update, count),
        Randomness("fit", (seed, update), update),
    )
    return target.fitted(draw.samples)
