"""A policy, a prior or a sampler measured against a target, in one call."""

from __future__ import annotations

import html
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from klvi.console import console
from klvi.engine.memory import out_of_memory
from klvi.engine.schema import EngineSection
from klvi.errors import UserError
from klvi.evaluation import evaluator as evaluators
from klvi.evaluation.enumeration import ExactEvaluator
from klvi.evaluation.evaluator import Evaluator
from klvi.evaluation.plan import Plan, evaluation_plan
from klvi.evaluation.schema import EvaluationSection
from klvi.metrics.measurement import Metric
from klvi.notebook.arguments import (
    ancestral_for,
    check_prior,
    check_sampler,
    check_target,
    contexts_for,
    letters_of,
    on_device,
    placed_on,
    settings,
    warn_of,
)
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior
from klvi.processes import current
from klvi.prompts.stream import PromptStream
from klvi.rewards.base import check_columns
from klvi.rewards.python import as_reward
from klvi.runs.assembly import checked_policy
from klvi.runs.schema import EvalConfig
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.samples import Samples
from klvi.spelling import suggestion
from klvi.targets.base import Target
from klvi.tracking.output import FILE_WIDTH
from klvi.tracking.tables import PREFIX, evaluation_report
from klvi.training.fitting import fit_to_prior


@dataclass(frozen=True, repr=False, eq=False)
class Evaluation(Mapping[str, Metric]):
    """Metrics with intervals, by name (`eval/reward`, or `reward`); a table when it is shown.

    Attributes:
        measured: the numbers, and the samples behind them.
        title: what was measured.
        confidence: of the intervals.
    """

    measured: evaluators.Evaluation
    title: str
    confidence: float

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The estimates, each with `value`, `low`, `high`: None with a `reason` without one."""
        return self.measured.metrics

    @property
    def exact(self) -> Mapping[str, float | None]:
        """The values that are estimated, where the prior is enumerable; else empty."""
        return self.measured.exact

    @property
    def samples(self) -> Samples:
        """Scored samples of what was measured."""
        return self.measured.samples

    @property
    def warning(self) -> str | None:
        """Why the numbers cannot be right, where they cannot."""
        return self.measured.warning

    @property
    def info(self) -> Mapping[str, float]:
        """The sampler's own numbers."""
        return self.measured.info

    def __getitem__(self, name: str) -> Metric:
        found = self.metrics.get(name) or self.metrics.get(f"{PREFIX}{name}")
        if found is None:
            raise KeyError(f"{name}: no metric of that name{suggestion(str(name), self.metrics)}")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def __str__(self) -> str:
        text, width = io.StringIO(), shutil.get_terminal_size((FILE_WIDTH, 0)).columns
        page = console(
            text, width=width, color_system=None, force_terminal=False, force_jupyter=False
        )
        page.print(*evaluation_report(self.measured, self.title, self.confidence), sep="\n")
        lines = (line.rstrip() for line in text.getvalue().splitlines())
        return "\n".join(lines).strip("\n")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f'<pre style="line-height: 1.2">{html.escape(str(self))}</pre>'


def evaluate(
    policy: Policy | Prior,
    target: Target,
    *,
    sampler: Sampler | None = None,
    gold: Any = None,
    samples: int | None = None,
    prior_samples: int | None = None,
    prompts: Sequence[Any] | None = None,
    pass_k: Sequence[int] | None = None,
    seed: int | None = None,
    confidence: float | None = None,
    ess_floor: float | None = None,
    engine: EngineSection | Mapping[str, Any] | None = None,
) -> Evaluation:
    """Every metric of a policy, or of a sampler that draws from it, against a target.

    The same numbers as of `klvi eval` with these values. A target with something to fit is fitted
    to the prior, as a run does at its start, unless it is a fitted one.

    Args:
        policy: what `klvi.train` returned, or a prior as the policy that it is.
        target: what it is measured against.
        sampler: measured in the policy's place; None for the policy itself.
        gold: a reward, or a function of texts, that is measured beside the target's own; with it
            `misspecified` and `badly_approximated` tell the target's shortfall from the policy's.
        samples: to draw in all; None for 512, or 64 of each of at most 24 prompts.
        prior_samples: of the prior, in all; None for 1,024, or as many per prompt as `samples`.
        prompts: as in `klvi.train`.
        pass_k: of a reward of 0 and 1, the numbers of samples k for which pass@k is wanted.
        seed: of samples and of the choice of prompts; None for the command's, `evaluation.seed`.
        confidence: of the intervals; None for 0.95.
        ess_floor: effective sample size below which importance-sampled metrics are unavailable.
        engine: what generates and scores, as the keys of `engine`.

    Raises UserError for what cannot be, in the words of the command line.
    """
    if not isinstance(policy, Policy):
        check_prior(policy)
    check_target(target)
    check_sampler("sampler", sampler)
    given = settings(
        EvaluationSection,
        samples=samples,
        prior_samples=prior_samples,
        pass_k=list(pass_k) if isinstance(pass_k, Sequence) else pass_k,
        seed=seed,
        confidence=confidence,
        ess_floor=ess_floor,
    )
    setting = settings(EvalConfig, engine=engine or {"name": "auto"}, seed=None)
    given["gold"] = None if gold is None else as_reward(gold, "gold")
    prior = policy.prior if isinstance(policy, Policy) else policy
    with on_device(prior):
        contexts = contexts_for(prior, target, prompts)
        if given["gold"] is not None:
            check_columns(given["gold"], contexts)
        made = EngineSection.model_validate(setting["engine"])
        if isinstance(policy, Prior):
            policy = checked_policy(
                policy,
                None,
                seed=setting["seed"],
                contexts=contexts,
                max_new_tokens=prior.support,
                engine=made,
            )
        evaluator = _evaluator(policy, target, sampler, contexts, made, given, setting["seed"])
        with out_of_memory("evaluating"):
            measured = evaluator.evaluate(0)
    kind = "the prior" if policy.is_prior else "a policy on"
    title = f"{kind} {prior.name}"
    if evaluator.sampler is not None:
        title = f"{type(sampler).__name__} from {title}"
    return Evaluation(measured, title, given["confidence"])


def _evaluator(
    policy: Policy,
    target: Target,
    sampler: Sampler | None,
    contexts: list[Any],
    engine: EngineSection,
    given: Mapping[str, Any],
    seed: int,
) -> Evaluator:
    """An evaluator of the target, fitted; `seed` is of what it is fitted to."""
    warn_of(policy, contexts)
    prior = policy.prior
    ancestral = ancestral_for(prior, contexts, engine)
    placed = None if sampler is None else placed_on(sampler, ancestral)
    plan = evaluation_plan(
        len(contexts), samples=given["samples"], prior_samples=given["prior_samples"]
    )
    evaluator = Evaluator(
        policy=policy,
        target=target,
        contexts=PromptStream(contexts, seed),
        ancestral=ancestral,
        sampler=None if isinstance(placed, Ancestral) else placed,
        gold=given["gold"],
        plan=plan,
        pass_k=given["pass_k"] or (),
        ess_floor=given["ess_floor"],
        confidence=given["confidence"],
        seed=given["seed"],
        enumeration=_enumeration(policy, target, contexts, plan, ancestral.batch_size),
        processes=current(),
    )
    if not target.state():
        fit_to_prior(evaluator, seed)
    return evaluator


def _enumeration(
    policy: Policy, target: Target, contexts: list[Any], plan: Plan, batch_size: int | None
) -> ExactEvaluator | None:
    """Where all sequences can be listed; None where they cannot, or are too many."""
    prior = policy.prior
    if prior.name != "enumerable":
        return None
    listed = ExactEvaluator(
        policy, target, letters_of(prior), prior.support, contexts, plan, batch_size
    )
    try:
        listed.check_size()
    except UserError:
        return None
    return listed
