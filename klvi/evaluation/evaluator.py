"""Measuring a policy or a sampler against its target: the same for every method and prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.evaluation.enumeration import ExactEvaluator
from klvi.evaluation.held_out import held_out
from klvi.evaluation.plan import Plan
from klvi.metrics.catalogue import metrics_of
from klvi.metrics.evaluate import evaluate
from klvi.metrics.frontier import frontier_violation
from klvi.metrics.measurement import Metric, Unavailable
from klvi.metrics.path import SHOWN, effective_at
from klvi.metrics.split import GOLD
from klvi.metrics.target import of_known_z
from klvi.policy.policy import Policy
from klvi.processes import ALONE, Processes
from klvi.prompts.stream import PromptStream
from klvi.randomness import Randomness
from klvi.rewards.base import Reward, of_rollout
from klvi.rewards.scoring import scored
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.samplers.sharded import sample_sharded
from klvi.samples import Draw, Samples
from klvi.targets.base import Target
from klvi.targets.posterior import Posterior


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and the samples behind it.

    Attributes:
        metrics: the estimates, by name.
        samples: scored samples of what was measured.
        exact: where the prior is enumerable, the values that the metrics estimate, and the
            target's own (`target/…`); None where one is infinite or undefined.
        warning: why the numbers cannot be right, where they cannot.
        info: the sampler's own numbers, by its names.
        path: effective samples that those of the prior carry at shares of the way to the target, of
            the context with the fewest; empty where the target has no potential.
        prior_samples: of that context.
    """

    metrics: dict[str, Metric]
    samples: Samples
    exact: Mapping[str, float | None] = field(default_factory=dict)
    warning: str | None = None
    info: Mapping[str, float] = field(default_factory=dict)
    path: Mapping[float, float] = field(default_factory=dict)
    prior_samples: int = 0


def repeated(contexts: Sequence[Context], times: int) -> list[Context]:
    """Each context `times` times, one after the other."""
    return [context for context in contexts for _ in range(times)]


def _check_names(samples: Samples, prior: Samples) -> None:
    """Raises UserError where scores have other names than those of the prior's samples had."""
    first, now = list(prior.scores), list(samples.scores)
    if set(first) != set(now):
        raise UserError(
            f"reward: gave the scores {', '.join(now)} of some completions and {', '.join(first)} "
            "of others; return the same names at every call"
        )


@dataclass
class Evaluator:
    """Measures a policy, or a sampler that uses it, with fresh samples and a fixed set of π0's.

    Where there are many contexts, those that are measured are drawn once. The same seed draws the
    same random numbers at every evaluation, so that two evaluations of one policy agree and those
    of a moving policy differ by no more than it moved.

    Attributes:
        policy: what is measured, or what the sampler draws from.
        target: what it is measured against.
        gold: a further reward that is measured, and nothing else; None for none.
        contexts: all contexts.
        ancestral: draws from the policy and from its prior.
        sampler: what is measured in the policy's place; None for the policy itself.
        plan: how many samples of how many contexts.
        pass_k: the numbers of samples k for which pass@k is wanted.
        ess_floor: effective sample size below which importance-sampled metrics are unavailable.
        confidence: of the intervals.
        seed: of samples and contexts.
        enumeration: gives the exact values; None where the sequences cannot be listed.
        notes: what the user should know of how it was assembled, a line each.
    """

    policy: Policy
    target: Target
    contexts: PromptStream
    ancestral: Ancestral
    sampler: Sampler | None = None
    gold: Reward | None = None
    plan: Plan = field(default_factory=Plan)
    pass_k: Sequence[int] = ()
    ess_floor: float = 30.0
    confidence: float = 0.95
    seed: int = 1
    enumeration: ExactEvaluator | None = None
    notes: list[str] = field(default_factory=list)
    processes: Processes = ALONE
    _of_prior: tuple[Target, Tensor] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.gold is not None and of_rollout(self.gold):
            raise UserError(
                f"gold: reward {self.gold.name} scores each completion by the others of its "
                "rollout, and has no mean under another distribution; choose another gold "
                "(eval/self_bleu_5 measures diversity)"
            )
        self._follow()

    def _follow(self) -> None:
        """Exact values of this target, which may have been fitted or replaced, and this plan."""
        listed = self.enumeration
        if listed is None:
            return
        same = listed.target is self.target and listed.gold is self.gold
        if not same or (listed.plan, listed.pass_k) != (self.plan, self.pass_k):
            self.enumeration = replace(
                listed, target=self.target, gold=self.gold, plan=self.plan, pass_k=self.pass_k
            )

    def evaluate(self, update: int) -> Evaluation:
        """All `eval/…` metrics as they are now; `update` is named in errors."""
        metrics, draw = self.measure(update)
        exact = self._exact(update)
        if draw.represents != "policy":
            # What is enumerated is the policy and the target, not what a sampler makes of them.
            specs = metrics_of(draw.samples.scores)
            exact = {n: v for n, v in exact.items() if n in specs and specs[n].of_target}
        return Evaluation(
            metrics,
            draw.samples,
            exact,
            self._warning(metrics),
            draw.info,
            self._path(),
            self.plan.prior_samples,
        )

    def _path(self) -> dict[float, float]:
        """See `Evaluation.path`."""
        if self.target.no_potential is not None:
            return {}
        prior = self._prior_samples
        potential = self._prior_log_target() - prior.log_prior_sequence
        _, place = prior.context.unique(return_inverse=True)
        parts = [potential[(place == row).to(potential.device)] for row in place.unique().tolist()]
        return {share: min(effective_at(part, share) for part in parts) for share in SHOWN}

    def measure(self, update: int) -> tuple[dict[str, Metric], Draw]:
        """The estimates alone, and the draw that they come from."""
        contexts = repeated(self._measured, self.plan.samples)
        draw = self._draw(self.policy, self.sampler, contexts, self.seed, update)
        prior, samples = self._prior_samples, draw.samples
        if draw.represents == "policy" and not self.policy.is_prior:
            log_policy = self.policy.log_probs(prior, self.ancestral.budget)
        else:
            log_policy = prior.log_prior
        _check_names(samples, prior)
        prior = replace(prior, log_policy=log_policy)
        metrics = evaluate(
            draw,
            self._log_target(samples),
            beta=self.target.beta,
            sampler="the policy" if self.sampler is None else type(self.sampler).__name__,
            prior_samples=prior,
            prior_log_target=self._prior_log_target(),
            no_target=self.target.no_potential,
            contexts=len(self.contexts.contexts),
            pass_k=self.pass_k,
            ess_floor=self.ess_floor,
            confidence=self.confidence,
            seed=self.seed,
        )
        if self.target.log_z is not None:
            metrics = of_known_z(metrics, self.target.log_z, len(samples))
        metrics |= held_out(
            self.policy, self.target, self.ancestral.max_new_tokens, self.confidence
        )
        return {**metrics, **self.target.report()}, draw

    def _log_target(self, samples: Samples) -> Tensor:
        """`(N,)` log P, or what stands in for it where it is unknown."""
        if self.target.no_potential is None:
            return self.target.log_unnormalised(samples)
        return samples.log_prior_sequence

    def _prior_log_target(self) -> Tensor:
        """`(N0,)` that of the prior's samples, once for each target: a teacher's takes a pass."""
        if self._of_prior is None or self._of_prior[0] is not self.target:
            self._of_prior = self.target, self._log_target(self._prior_samples)
        return self._of_prior[1]

    def draw(self, count: int, seed: int, update: int) -> Samples:
        """`count` scored samples, of the contexts in their order, over and over."""
        contexts = self.contexts.first(count)
        return self._draw(self.policy, self.sampler, contexts, seed, update).samples

    def _exact(self, update: int) -> dict[str, float | None]:
        self._follow()
        if self.enumeration is None:
            return {}
        exact = self.enumeration.evaluate(update)
        return {n: None if isinstance(v, Unavailable) else v for n, v in exact.items()}

    def _warning(self, metrics: Mapping[str, Metric]) -> str | None:
        """The frontier is that of the posterior; another target's log Z says nothing of it."""
        if not isinstance(self.target, Posterior):
            return None
        names = ("eval/reward", "eval/kl_prior", "eval/log_z")
        reward, kl_prior, log_z = (metrics[name] for name in names)
        return frontier_violation(reward, kl_prior, log_z, self.target.beta)

    def aim(self, target: Target) -> None:
        """Measure against `target`, of the same scorers, from now on."""
        self.target = target
        self._follow()

    @cached_property
    def _measured(self) -> list[Context]:
        """The contexts that are measured, the same throughout a run."""
        return self.contexts.subset(self.plan.contexts, self.seed)

    @cached_property
    def _prior_samples(self) -> Samples:
        """Samples of π0 that complete the proposal where the policy does not cover the target."""
        contexts = repeated(self._measured, self.plan.prior_samples)
        prior = self.policy.without_adapter()
        return self._draw(prior, self.ancestral, contexts, self.seed, 0, "prior").samples

    def _draw(
        self,
        policy: Policy,
        sampler: Sampler | None,
        contexts: list[Context],
        seed: int,
        update: int,
        purpose: str = "evaluation",
    ) -> Draw:
        """A scored sample per context; those of the policy with distributions behind their tokens.

        What `seed` gives for one `purpose` is independent of what it gives for another.
        Raises UserError where log-probabilities are not numbers.
        """
        sampler = sampler or replace(self.ancestral, distributions=True)
        randomness = Randomness(purpose, (seed,), update)
        draw = sample_sharded(self.processes, sampler, policy, self.target, contexts, randomness)
        if self.gold is not None:
            of_gold = scored(draw.samples, {GOLD: self.gold}, update=update).scores
            scores = {**draw.samples.scores, **of_gold}
            draw = replace(draw, samples=draw.samples.with_scores(scores))
        if not bool(draw.samples.log_policy.isfinite().all()):
            raise UserError(
                f"model {policy.prior.name}: the policy's log-probabilities are not finite; "
                "use model.dtype=float32, or a policy trained with a smaller optim.lr"
            )
        return draw
