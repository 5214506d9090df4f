"""A sampler is measured like a policy, by the same names; what needs its density says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from support import LENGTH, LETTERS, LetterReward, disturb

from klvi.contexts import Context, unprompted
from klvi.errors import UserError
from klvi.evaluation.enumeration import ExactEvaluator
from klvi.evaluation.evaluator import Evaluator
from klvi.evaluation.plan import Plan
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.policy.policy import Policy
from klvi.prompts.stream import PromptStream
from klvi.randomness import Randomness
from klvi.rewards.contains import Contains
from klvi.rewards.diversity import Diversity
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.samplers.mixture import Mixture
from klvi.samples import Cost, Draw
from klvi.targets.base import Target
from klvi.targets.posterior import Posterior

BETA = 0.2
TARGET = Posterior(LetterReward(), BETA)
NEED_DENSITY = {
    f"eval/{name}"
    for name in (
        *("kl_prior", "kl_target_reverse", "kl_target_forward", "tv_target", "ess"),
        *("log_z", "log_z_lower", "log_z_upper", "penalised_reward_std"),
        *("entropy", "entropy_token"),
    )
}


@dataclass(frozen=True)
class FromPrior(Sampler):
    """Draws from the prior whatever the policy is, with or without the density."""

    density: bool

    def sample(
        self, policy: Policy, target: Target, contexts: Sequence[Context], randomness: Randomness
    ) -> Draw:
        draw = Ancestral(LENGTH).sample(Policy(policy.prior), target, contexts, randomness)
        samples = draw.samples
        density = samples.log_prior_sequence if self.density else None
        return Draw(
            replace(samples, log_density=density),
            represents="sampler",
            info={"acceptance": 0.25},
            cost=Cost(tokens=7 * len(samples)),
        )


def evaluator_of(policy: Policy, **changes: Any) -> Evaluator:
    listed = ExactEvaluator(policy, TARGET, LETTERS, LENGTH)
    values = {"plan": Plan(1, 1000, 1000), "confidence": 0.9999, "enumeration": listed}
    contexts = PromptStream(unprompted(1))
    target = changes.pop("target", TARGET)
    return Evaluator(policy, target, contexts, Ancestral(LENGTH), **{**values, **changes})


def test_a_sampler_with_a_density_has_the_metrics_of_a_policy(policy: Policy) -> None:
    """Intervals of 99.99% of 23 metrics: one misses in 400 choices of seeds."""
    disturb(policy, 0.2)
    found = evaluator_of(policy, sampler=FromPrior(density=True)).evaluate(0)
    truth = ExactEvaluator(Policy(policy.prior), TARGET, LETTERS, LENGTH, plan=Plan(1, 1000, 0))
    exact, checked = truth.evaluate(0), set()
    for name, metric in found.metrics.items():
        value = exact[name]
        if isinstance(metric, Measurement) and isinstance(value, float):
            assert metric.low - 1e-6 <= value <= metric.high + 1e-6, name
            checked.add(name)
    assert checked >= NEED_DENSITY
    assert found.metrics["eval/cost_tokens"] == Measurement(7.0, 7.0, 7.0, 1000)
    assert found.info == {"acceptance": 0.25}
    # The policy is enumerated, and it is another distribution.
    assert set(found.exact) == {
        f"target/{name}" for name in ("entropy", "reward", "kl_prior", "log_chi2")
    }


def test_without_a_density_what_needs_one_is_unavailable(policy: Policy) -> None:
    found = evaluator_of(policy, sampler=FromPrior(density=False)).evaluate(0)
    unavailable = {n for n, metric in found.metrics.items() if isinstance(metric, Unavailable)}
    assert unavailable == NEED_DENSITY
    for name in NEED_DENSITY:
        metric = found.metrics[name]
        assert isinstance(metric, Unavailable)
        assert "FromPrior" in metric.reason
        assert "log_density" in metric.reason
    assert found.warning is None


def test_a_weighted_mixture_is_measured_as_the_policy_that_it_represents(policy: Policy) -> None:
    """Intervals of 99.99% of 19 metrics: one misses in 500 choices of seeds."""
    disturb(policy, 0.2)
    found = evaluator_of(policy, sampler=Mixture(Ancestral(LENGTH), 0.5)).evaluate(0)
    checked = set()
    for name, metric in found.metrics.items():
        value = found.exact[name]
        # Its proposal has an effective sample size of its own.
        if isinstance(metric, Measurement) and value is not None and name != "eval/ess":
            assert metric.low - 1e-6 <= value <= metric.high + 1e-6, name
            checked.add(name)
    assert checked >= NEED_DENSITY - {"eval/ess"}


def test_a_target_without_a_score_has_no_reward(policy: Policy) -> None:
    class Flat(Target):
        name = "flat"
        beta = 1.0

        @property
        def scorers(self) -> dict[str, Any]:
            return {}

        def log_potential(self, samples: Any) -> torch.Tensor:
            return samples.lengths.double().cpu()

    evaluator = Evaluator(
        disturb(policy),
        Flat(),
        PromptStream(unprompted(1)),
        Ancestral(LENGTH),
        enumeration=ExactEvaluator(policy, Flat(), LETTERS, LENGTH),
    )
    evaluation = evaluator.evaluate(0)
    reward = Unavailable("the samples have no score reward")
    assert evaluation.metrics["eval/reward"] == reward
    assert evaluation.exact["eval/reward"] is evaluation.exact["target/reward"] is None
    assert isinstance(evaluation.metrics["eval/kl_target_forward"], Measurement)


def test_mentions_of_the_rewarded_text_are_estimated_and_exact(policy: Policy) -> None:
    """An interval of 99.99%: it misses for one seed of 10,000."""
    evaluator = evaluator_of(policy)
    evaluator.aim(Posterior(Contains("b"), 0.3))
    evaluation = evaluator.evaluate(0)
    found, exact = evaluation.metrics["eval/mentions"], evaluation.exact["eval/mentions"]
    assert isinstance(found, Measurement)
    assert exact is not None
    assert found.low < exact < found.high
    assert exact > (evaluation.exact["eval/reward"] or 0)


def test_another_target_has_exact_values_of_its_own(policy: Policy) -> None:
    evaluator = evaluator_of(policy)
    first = evaluator.evaluate(0).exact["eval/log_z"]
    second = replace(evaluator, target=replace(TARGET, beta=0.1))
    assert second.evaluate(0).exact["eval/log_z"] != first
    evaluator.target = replace(TARGET, beta=0.1)
    assert evaluator.evaluate(0).exact == second.evaluate(0).exact


def test_log_p_is_summed_once_per_target(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    whole = Posterior.log_potential

    def counted(self: Posterior, samples: Any) -> torch.Tensor:
        calls.append(len(samples))
        return whole(self, samples)

    monkeypatch.setattr(Posterior, "log_potential", counted)
    evaluator = evaluator_of(policy)
    assert evaluator.enumeration is not None
    for update in range(3):
        evaluator.evaluate(update)
    assert calls.count(len(evaluator.enumeration.sequences)) == 1


class Places:
    """Gold: where the letter b stands."""

    name = "places"

    def __call__(self, texts: list[str], contexts: list[Context]) -> list[float]:
        return [float("b" in text[:2]) + 0.5 * text.count("b") for text in texts]


class Changing(LetterReward):
    """A reward whose further score is named anew at every call."""

    calls = 0

    def __call__(self, texts: list[str], contexts: list[Context]) -> Any:
        self.calls += 1
        values = super().__call__(texts, contexts)
        return {"reward": values, f"part_{self.calls}": values}


def test_gold_is_measured_and_not_aimed_at(policy: Policy) -> None:
    """Intervals of 99.99% of 28 metrics: one misses in 350 choices of seeds."""
    disturb(policy, 0.2)
    found = evaluator_of(policy, gold=Places()).evaluate(0)
    without = evaluator_of(policy).evaluate(0)
    further = {"eval/gold", "target/gold", "target/gold_best"}
    further |= {"eval/misspecified", "eval/badly_approximated"}
    assert set(found.metrics) == set(without.metrics) | further
    assert all(found.metrics[name] == metric for name, metric in without.metrics.items())
    assert {name: found.exact[name] for name in without.exact} == without.exact
    for name, metric in found.metrics.items():
        value = found.exact[name]
        if isinstance(metric, Measurement) and value is not None:
            assert metric.low - 1e-6 <= value <= metric.high + 1e-6, name
    assert isinstance(found.metrics["eval/misspecified"], Measurement)


def test_the_targets_own_numbers_are_there_whatever_the_sampler_is(policy: Policy) -> None:
    """By samples of the prior; intervals of 99.99% of 7 metrics: one misses in 1,400 choices."""
    disturb(policy, 0.2)
    sampler = FromPrior(density=False)
    found = evaluator_of(policy, sampler=sampler, gold=Places()).evaluate(0)
    names = {name for name in found.metrics if name.startswith("target/")} | {"eval/misspecified"}
    assert set(found.exact) == names
    for name in names:
        metric, value = found.metrics[name], found.exact[name]
        assert isinstance(metric, Measurement), name
        assert value is not None
        assert metric.low <= value <= metric.high, name
    assert isinstance(found.metrics["eval/gold"], Measurement)
    assert isinstance(found.metrics["eval/badly_approximated"], Unavailable)


def test_scores_that_change_their_names_are_refused(policy: Policy) -> None:
    target = Posterior(Changing(), BETA)
    evaluator = evaluator_of(policy, target=target, enumeration=None)
    with pytest.raises(UserError, match=r"reward/part_1 of some completions and .*/part_2"):
        evaluator.evaluate(0)


def test_a_reward_of_the_rollout_has_no_target_to_measure(policy: Policy) -> None:
    target = Posterior(Diversity(), BETA)
    listed = ExactEvaluator(policy, target, LETTERS, LENGTH)
    found = evaluator_of(policy, target=target, enumeration=listed, gold=Places()).evaluate(0)
    assert isinstance(found.metrics["eval/reward"], Measurement)
    assert isinstance(found.metrics["eval/gold"], Measurement)
    assert found.exact["eval/reward"] is None
    assert found.exact["eval/log_z"] is found.exact["target/gold"] is None
    assert found.exact["eval/gold"] is not None
    for name in ("eval/log_z", "target/reward", "target/gold", "eval/misspecified"):
        metric = found.metrics[name]
        assert isinstance(metric, Unavailable)
        assert "moves with the policy" in metric.reason
    assert found.path == {}
    with pytest.raises(UserError, match="gold: reward diversity scores each completion by"):
        evaluator_of(policy, gold=Diversity())


def test_the_way_to_the_target_is_told(policy: Policy) -> None:
    found = evaluator_of(policy, plan=Plan(1, 500, 200)).evaluate(0)
    sizes = [found.path[share] for share in (0.25, 0.5, 0.75, 1.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert 1 <= sizes[-1] < sizes[0] < 200
    assert found.prior_samples == 200
