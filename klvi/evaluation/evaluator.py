"""Measuring a policy against its target: the same for every objective, sampler and prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.evaluation.enumeration import ExactEvaluator
from klvi.evaluation.plan import Plan, evaluation_plan
from klvi.metrics.evaluate import evaluate
from klvi.metrics.frontier import frontier_violation
from klvi.metrics.measurement import Metric, Unavailable
from klvi.policy.policy import Policy
from klvi.policy.schema import EnumerableModelConfig
from klvi.prompts.stream import PromptStream
from klvi.randomness import Randomness
from klvi.runs.schema import MeasureConfig
from klvi.samplers.ancestral import Ancestral, log_policy_of
from klvi.samples import Samples
from klvi.targets.base import Target
from klvi.targets.schema import PosteriorTarget


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and the policy's samples behind it.

    Attributes:
        metrics: the estimates, by name.
        samples: scored samples of the policy.
        exact: where the prior is enumerable, the values that the metrics estimate, and the
            target's own (`target/…`); None where one is infinite or undefined.
        warning: a line that says that the numbers cannot be right, where they cannot.
    """

    metrics: dict[str, Metric]
    samples: Samples
    exact: Mapping[str, float | None] = field(default_factory=dict)
    warning: str | None = None


def repeated(contexts: Sequence[Context], times: int) -> list[Context]:
    """Each context `times` times, one after the other."""
    return [context for context in contexts for _ in range(times)]


@dataclass
class Evaluator:
    """Measures a policy with fresh samples of its own and one fixed set of the prior's.

    Where there are many contexts, those that are measured are drawn once. `notes` are what the user
    should know of how it was assembled, a line each.

    The same seed draws the same random numbers at every evaluation, so that two evaluations of one
    policy agree and those of a moving policy differ by no more than it moved.
    """

    config: MeasureConfig
    policy: Policy
    target: Target
    contexts: PromptStream
    notes: list[str] = field(default_factory=list)

    def evaluate(self, update: int) -> Evaluation:
        """All `eval/…` metrics of the policy as it is now; `update` is named in errors."""
        metrics, samples = self.measure(update)
        return Evaluation(metrics, samples, self._exact(update), self._warning(metrics))

    def measure(self, update: int) -> tuple[dict[str, Metric], Samples]:
        """The estimates alone, and the samples of the policy that they come from."""
        settings, plan = self.config.evaluation, self.plan
        contexts = repeated(self._measured, plan.samples)
        samples = self._complete(contexts, settings.seed, update, "evaluation")
        prior = self._prior_samples
        budget = self.config.rollout.micro_batch_tokens
        moved = not self.policy.is_prior
        log_policy = log_policy_of(self.policy, prior, budget) if moved else prior.log_prior
        prior = replace(prior, log_policy=log_policy)
        metrics = evaluate(
            samples,
            self.target.log_unnormalised(samples),
            beta=self.config.beta,
            prior_samples=prior,
            prior_log_target=self.target.log_unnormalised(prior),
            contexts=len(self.contexts.contexts),
            ess_floor=settings.ess_floor,
            confidence=settings.confidence,
            seed=settings.seed,
        )
        return metrics, samples

    def _exact(self, update: int) -> dict[str, float | None]:
        if self.enumeration is None:
            return {}
        exact = self.enumeration.evaluate(update)
        return {n: None if isinstance(v, Unavailable) else v for n, v in exact.items()}

    def _warning(self, metrics: Mapping[str, Metric]) -> str | None:
        """The frontier is that of the posterior; another target's log Z says nothing of it."""
        if not isinstance(self.config.target, PosteriorTarget):
            return None
        names = ("eval/reward", "eval/kl_prior", "eval/log_z")
        reward, kl_prior, log_z = (metrics[name] for name in names)
        return frontier_violation(reward, kl_prior, log_z, self.config.beta)

    @cached_property
    def enumeration(self) -> ExactEvaluator | None:
        """What gives the exact values; None where the prior is not enumerable."""
        if not isinstance(self.config.model, EnumerableModelConfig):
            return None
        return ExactEvaluator(self.config, self.policy, self.target, self.contexts.contexts)

    @property
    def plan(self) -> Plan:
        """How many samples of how many prompts are measured."""
        return evaluation_plan(self.config.evaluation, len(self.contexts.contexts))

    @cached_property
    def _measured(self) -> list[Context]:
        """The contexts that are measured, the same throughout a run."""
        return self.contexts.subset(self.plan.contexts, self.config.evaluation.seed)

    @cached_property
    def _prior_samples(self) -> Samples:
        """Samples of π0 that complete the proposal where the policy does not cover the target."""
        contexts = repeated(self._measured, self.plan.prior_samples)
        with self.policy.with_adapter(self.policy.zero_adapter()):
            return self._complete(contexts, self.config.evaluation.seed, 0, "prior")

    def draw(self, count: int, seed: int, update: int) -> Samples:
        """`count` scored samples of the policy, of the contexts in their order, over and over."""
        return self._complete(self.contexts.first(count), seed, update, "evaluation")

    def _complete(self, contexts: list[Context], seed: int, update: int, purpose: str) -> Samples:
        """A scored sample per context; those of the policy with distributions behind their tokens.

        What `seed` gives for one `purpose` is independent of what it gives for another.
        Raises UserError where log-probabilities are not numbers.
        """
        sampler = replace(self.sampler, distributions=purpose == "evaluation")
        randomness = Randomness(purpose, (seed,), update)
        samples = sampler.sample(self.policy, self.target, contexts, randomness).samples
        if not bool(samples.log_policy.isfinite().all()):
            raise UserError(
                f"model {self.config.model.name}: the policy's log-probabilities are not finite; "
                "use model.dtype=float32, or a policy trained with a smaller optim.lr"
            )
        return samples

    @property
    def sampler(self) -> Ancestral:
        """What completes contexts."""
        settings = self.config.rollout
        return Ancestral(settings.max_new_tokens, settings.batch_size, settings.micro_batch_tokens)
