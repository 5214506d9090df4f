"""The metrics that compare policy and target: per prompt, as Z is a prompt's own, then averaged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from klvi.metrics import estimators, importance
from klvi.metrics.importance import LogProbabilities, Mixture
from klvi.metrics.intervals import Estimate, interval, with_room
from klvi.metrics.jackknife import GROUPS, averaged, debiased, kept
from klvi.metrics.measurement import Measurement, Metric, Unavailable
from klvi.samples import Samples

LOWER = "eval/log_z_lower"
NEEDS_Z: dict[str, Callable[[Mixture], Estimate]] = {
    "eval/kl_target_reverse": importance.kl_reverse,
    "eval/kl_target_forward": importance.kl_forward,
    "eval/tv_target": importance.total_variation,
    "eval/log_z": importance.log_z,
    "eval/log_z_upper": importance.log_z_upper,
}
INFINITE_OUTSIDE = ("eval/kl_target_reverse", LOWER)
SAME = 1e-4


# One context's samples of the policy, and of the prior where there are any.
Drawn = tuple[LogProbabilities, LogProbabilities | None]


@dataclass(frozen=True)
class Trust:
    """When importance-sampled metrics are refused, and how wide the intervals are.

    Attributes:
        ess_floor: the smallest effective sample size, per prompt.
        log_z_bound: a lower bound on log Z known from elsewhere, nats.
        confidence: of the intervals.
    """

    ess_floor: float
    log_z_bound: float
    confidence: float


def target_metrics(
    samples: Samples,
    log_target: Tensor,
    prior_samples: Samples | None,
    prior_log_target: Tensor | None,
    trust: Trust,
    share: float = 1.0,
) -> dict[str, Metric]:
    """KLs, total variation, log Z with its sandwich, and the effective sample size.

    `share` is that of the contexts in all there are.
    """
    policy = _by_prompt(samples, log_target)
    prior: dict[int, LogProbabilities] = {}
    if prior_samples is not None and prior_log_target is not None:
        prior = _by_prompt(prior_samples, prior_log_target, from_prior=True)
    violated = _violations(policy, prior)
    names = {context.row: context.title for context in samples.contexts}
    single = [names[row] for row, part in policy.items() if len(part.policy) == 1]
    if single:
        refusal = Unavailable(f"{single[0]} has a single sample, and Z is a prompt's own")
        log_policy = samples.log_policy_sequence.cpu()
        bound = interval(estimators.elbo(log_policy, log_target.cpu()), trust.confidence)
        metrics: dict[str, Metric] = dict.fromkeys([*NEEDS_Z, "eval/ess"], refusal)
        return metrics | {LOWER: violated or bound}
    mixtures = {
        prompt: importance.mixture(part, prior.get(prompt)) for prompt, part in policy.items()
    }
    weights = [len(part.policy) / len(samples) for part in policy.values()]
    several = len(mixtures) > 1
    sets = [(part, prior.get(row)) for row, part in policy.items()] if several else []
    worst = _worst_prompt(mixtures, names)
    return _measure(list(mixtures.values()), sets, weights, worst, violated, trust, share)


def _by_prompt(
    samples: Samples, log_target: Tensor, *, from_prior: bool = False
) -> dict[int, LogProbabilities]:
    rows: dict[int, list[int]] = {}
    for i, prompt in enumerate(samples.context.tolist()):
        rows.setdefault(prompt, []).append(i)
    log_policy = samples.log_policy_sequence.cpu()
    log_prior = samples.log_prior_sequence.cpu()
    target = log_target.cpu().double()
    drawn = samples.log_density
    own = log_prior if from_prior else log_policy
    gap = torch.zeros_like(own) if drawn is None else drawn.cpu().double() - own
    indices = {prompt: torch.tensor(chosen) for prompt, chosen in rows.items()}
    return {
        prompt: LogProbabilities(log_policy[chosen], log_prior[chosen], target[chosen], gap[chosen])
        for prompt, chosen in indices.items()
    }


def _violations(
    policy: dict[int, LogProbabilities], prior: dict[int, LogProbabilities]
) -> Unavailable | None:
    """The policy reaches what the target excludes: its KL to the target is infinite."""
    counts = []
    for source in (policy, prior):
        targets = [part.target for part in source.values()]
        excluded = sum(int((target == -math.inf).sum()) for target in targets)
        counts.append((excluded, sum(len(target) for target in targets)))
    (excluded, n), (seen, n_prior) = counts
    if excluded:
        return Unavailable(f"infinite: {excluded} of {n} samples violate the constraint")
    if seen:
        return Unavailable(
            f"infinite: none of {n} samples violates the constraint, but {seen} of {n_prior} "
            "samples of the prior do, and the policy can make them too"
        )
    return None


@dataclass(frozen=True)
class _Worst:
    """The prompt with the smallest effective sample size, and how to name it."""

    mixture: Mixture
    size: float
    place: str


def _worst_prompt(mixtures: dict[int, Mixture], names: dict[int, str]) -> _Worst:
    sizes = {p: importance.effective_sample_size(mix).value for p, mix in mixtures.items()}
    worst = min(sizes, key=lambda prompt: sizes[prompt])
    place = f" for {names[worst]}" if len(mixtures) > 1 else ""
    return _Worst(mixtures[worst], sizes[worst], place)


def _measure(
    mixtures: list[Mixture],
    sets: list[Drawn],
    weights: list[float],
    worst: _Worst,
    violated: Unavailable | None,
    trust: Trust,
    share: float,
) -> dict[str, Metric]:
    n = sum(len(mix.log_weight) for mix in mixtures)
    if all(_featureless(mix) for mix in mixtures):
        reason = f"all {n} samples have the same potential: what the target prefers was not seen"
        return dict.fromkeys([*NEEDS_Z, LOWER, "eval/ess"], Unavailable(reason))
    infinite = dict.fromkeys(INFINITE_OUTSIDE, violated) if violated else {}

    def measure(estimator: Callable[[Mixture], Estimate], name: str) -> Metric:
        if name in infinite:
            return infinite[name]
        wholes = [estimator(mix) for mix in mixtures]
        triples = zip(wholes, mixtures, sets, strict=True) if sets else ()
        each = [_debiased(estimator, *triple) for triple in triples] or wholes
        found = averaged(wholes, each, weights, share)
        return _with_interval(name, found, trust)

    metrics = {"eval/ess": measure(importance.effective_sample_size, "eval/ess")}
    metrics[LOWER] = measure(importance.log_z_lower, LOWER)
    refusal = _refusal(worst, trust.ess_floor)
    if refusal is None:
        metrics |= {name: measure(estimator, name) for name, estimator in NEEDS_Z.items()}
        refusal = _below_bound(metrics["eval/log_z"], trust.log_z_bound)
    if refusal is not None:
        metrics |= dict.fromkeys(NEEDS_Z, refusal)
    return metrics | infinite


def _debiased(
    estimator: Callable[[Mixture], Estimate], whole: Estimate, mix: Mixture, drawn: Drawn
) -> Estimate:
    """One of several contexts' estimates, without its bias of order 1/n."""
    sizes = [len(part.policy) for part in drawn if part is not None]
    if min(sizes) < 2 * GROUPS:
        return whole

    def without(group: int) -> float:
        policy, prior = drawn
        fewer = policy.select(kept(len(policy.policy), group))
        others = None if prior is None else prior.select(kept(len(prior.policy), group))
        part = importance.mixture(fewer, others)
        # An effective sample size is in samples, of which there are fewer.
        per_sample = estimator is importance.effective_sample_size
        scale = len(mix.log_weight) / len(part.log_weight) if per_sample else 1.0
        return scale * estimator(part).value

    return debiased(whole, [without(group) for group in range(GROUPS)])


def _featureless(mix: Mixture) -> bool:
    """Whether policy and prior coincide on samples that the target does not tell apart."""
    return bool(
        float(mix.log_potential.max()) - float(mix.log_potential.min()) < SAME
        and float(mix.log_weight.max()) - float(mix.log_weight.min()) < SAME
    )


def _with_interval(name: str, found: Estimate, trust: Trust) -> Metric:
    if name == "eval/ess":
        measured = interval(found, trust.confidence, 0.0, float(found.n))
        # Weights not seen yet may be larger still.
        return replace(measured, low=0.0) if found.value < trust.ess_floor else measured
    if name == "eval/tv_target":
        return interval(with_room(found), trust.confidence, 0.0, 1.0)
    return interval(with_room(found), trust.confidence, 0.0 if "/kl_" in name else -math.inf)


def _refusal(worst: _Worst, floor: float) -> Unavailable | None:
    """Why the weights cannot be trusted: the worst prompt's effective sample size, if too low."""
    n = len(worst.mixture.log_weight)
    if worst.size == 0:
        return Unavailable(f"none of {n} samples{worst.place} has a positive target probability")
    if worst.size >= floor:
        return None
    return Unavailable(
        f"effective sample size {worst.size:.1f} of {n} samples{worst.place} "
        f"is below the floor of {floor:g}"
    )


def _below_bound(log_z: Metric, bound: float) -> Unavailable | None:
    """Why log Z cannot be what was found: it is known to be larger, by twice the reach."""
    if not isinstance(log_z, Measurement) or 2 * log_z.high - log_z.value >= bound:
        return None
    return Unavailable(
        f"the samples miss part of the target: they give log Z = {log_z.value:.4g}, "
        f"but it is at least {bound:.4g}"
    )
