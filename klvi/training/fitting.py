"""A target's free parameters, estimated from samples."""

from __future__ import annotations

from klvi.evaluation.evaluator import Evaluator
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
    updates: int,
    *,
    policy: Policy,
    sampler: Sampler,
    contexts: PromptStream,
    seed: int,
    processes: Processes,
) -> Target | None:
    """The target fitted before `update` of `updates`, to the prior before 0; None for no fit.

    Args:
        sampler: draws from the policy itself.
    """
    count = target.samples_to_fit(update, updates)
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


def fit_to_prior(evaluator: Evaluator, seed: int) -> None:
    """Fit what is measured against, where there is anything to fit, as a run does at its start."""
    target = refitted(
        evaluator.target,
        0,
        1,
        policy=evaluator.policy,
        sampler=evaluator.ancestral,
        contexts=evaluator.contexts,
        seed=seed,
        processes=evaluator.processes,
    )
    if target is not None:
        evaluator.aim(target)
