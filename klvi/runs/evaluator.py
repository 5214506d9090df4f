"""A run's evaluator, from its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from klvi.evaluation.enumeration import ExactEvaluator
from klvi.evaluation.evaluator import Evaluator
from klvi.evaluation.plan import evaluation_plan
from klvi.evaluation.schema import EvaluationSection
from klvi.policy.policy import Policy
from klvi.policy.schema import EnumerableModelConfig
from klvi.processes import current
from klvi.prompts.stream import PromptStream
from klvi.rewards.base import Reward
from klvi.runs.schema import OfRunConfig, ProblemConfig
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.build import build_sampler
from klvi.targets.base import Target


@dataclass
class RunEvaluator(Evaluator):
    """An evaluator with the configuration behind it, a value for every key."""

    config: ProblemConfig = field(kw_only=True)


def run_evaluator(
    config: ProblemConfig,
    policy: Policy,
    target: Target,
    contexts: PromptStream,
    notes: list[str],
    gold: Reward | None = None,
) -> RunEvaluator:
    """The evaluator that a configuration describes; `notes` are shown before the run."""
    settings, rows = getattr(config, "evaluation", EvaluationSection()), contexts.contexts
    length, engine = config.max_new_tokens, config.engine
    ancestral = Ancestral(length, engine.batch_size, engine.micro_batch_tokens)
    sampler = None
    if isinstance(config, OfRunConfig) and config.sampler.name != "ancestral":
        sampler = build_sampler(config.sampler, ancestral)
    plan = evaluation_plan(
        len(rows),
        samples=settings.samples,
        prior_samples=settings.prior_samples,
        prompts=settings.prompts,
        samples_per_prompt=settings.samples_per_prompt,
    )
    enumeration = None
    if isinstance(config.model, EnumerableModelConfig):
        enumeration = ExactEvaluator(
            policy=policy,
            target=target,
            letters=config.model.letters,
            length=length,
            contexts=rows,
            plan=plan,
            batch_size=engine.batch_size,
            gold=gold,
            pass_k=settings.pass_k or (),
        )
    return RunEvaluator(
        policy=policy,
        target=target,
        contexts=contexts,
        ancestral=ancestral,
        sampler=sampler,
        gold=gold,
        plan=plan,
        pass_k=settings.pass_k or (),
        ess_floor=settings.ess_floor,
        confidence=settings.confidence,
        seed=settings.seed,
        enumeration=enumeration,
        notes=notes,
        processes=current(),
        config=config,
    )
