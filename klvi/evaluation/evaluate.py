"""One call for a notebook: a policy or a sampler measured against a target."""

from __future__ import annotations

from collections.abc import Sequence

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.evaluation.enumeration import ExactEvaluator
from klvi.evaluation.evaluator import Evaluation, Evaluator
from klvi.evaluation.plan import Plan, evaluation_plan
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior
from klvi.prompts.stream import PromptStream
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.targets.base import Target


def evaluate(
    policy: Policy | Prior,
    target: Target,
    sampler: Sampler | None = None,
    *,
    samples: int | None = None,
    prior_samples: int | None = None,
    prompts: Sequence[str | Context] | None = None,
    max_new_tokens: int = 48,
    seed: int = 1,
    confidence: float = 0.95,
    ess_floor: float = 30.0,
) -> Evaluation:
    """Every metric of a policy, or of a sampler that draws from it, against a target.

    Exact values stand beside the estimates where the prior is enumerable and its sequences are few
    enough to be listed.

    Args:
        policy: a policy, or a prior as the policy that it is.
        target: what it is measured against.
        sampler: measured in the policy's place; None for the policy itself.
        samples: to draw in all; None for 512, or 64 of each of at most 24 prompts.
        prior_samples: of the prior, in all; None for 1,024, or as many per prompt as `samples`.
        prompts: each is a context of its own; None for none.
        max_new_tokens: tokens of a completion at most.
        seed: of samples and of the choice of prompts.
        confidence: of the intervals.
        ess_floor: effective sample size below which importance-sampled metrics are unavailable.
    """
    policy = Policy(policy) if isinstance(policy, Prior) else policy
    contexts = _contexts(prompts)
    plan = evaluation_plan(len(contexts), samples=samples, prior_samples=prior_samples)
    evaluator = Evaluator(
        policy=policy,
        target=target,
        contexts=PromptStream(contexts),
        ancestral=Ancestral(max_new_tokens),
        sampler=sampler,
        plan=plan,
        ess_floor=ess_floor,
        confidence=confidence,
        seed=seed,
        enumeration=_enumeration(policy, target, contexts, max_new_tokens, plan),
    )
    return evaluator.evaluate(0)


def _contexts(prompts: Sequence[str | Context] | None) -> list[Context]:
    if not prompts:
        return [Context(0)]
    return [p if isinstance(p, Context) else Context(row, p) for row, p in enumerate(prompts)]


def _enumeration(
    policy: Policy, target: Target, contexts: list[Context], length: int, plan: Plan
) -> ExactEvaluator | None:
    """Where all sequences can be listed: those of letters, numbered below the end token."""
    if policy.prior.name != "enumerable":
        return None
    letters = policy.prior.stop_token_ids[0]
    listed = ExactEvaluator(policy, target, letters, length, contexts, plan)
    try:
        listed.check_size()
    except UserError:
        return None
    return listed
