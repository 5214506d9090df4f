"""A target's free parameters, estimated from samples."""

from __future__ import annotations

from klvi.evaluation.evaluator import Evaluator
from klvi.policy.policy import Policy
from klvi.processes import Processes
from klvi.prompts.stream import PromptStream
from klvi.randomness import Randomness
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.mixture import Mixture
from klvi.samplers.sharded import sample_sharded
from klvi.targets.base import Target


def refitted(
    target: Target,
    update: int,
    updates: int,
    *,
    policy: Policy,
    sampler: Ancestral,
    contexts: PromptStream,
    seed: int,
    processes: Processes,
) -> Target | None:
    """The target fitted before `update` of `updates`; None for no fit.

    Before update 0 the samples are the prior's, later half of them are the policy's, weighed by the
    mixture: a policy that has not arrived, or has lost something, then spoils no fit.

    Args:
        sampler: draws from the policy itself.
    """
    count = target.samples_to_fit(update, updates)
    if not count:
        return None
    draw = sample_sharded(
        processes,
        Mixture(sampler) if update else sampler,
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
