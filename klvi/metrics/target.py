"""The metrics that compare policy and target: per prompt, as Z is a prompt's own, then averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from klvi.metrics import estimators, importance
from klvi.metrics.catalogue import METRICS
from klvi.metrics.importance import LogProbabilities, Mixture
from klvi.metrics.intervals import Estimate, interval
from klvi.metrics.jackknife import GROUPS, averaged, debiased, kept
from klvi.metrics.measurement import Measurement, Metric, Unavailable
from klvi.metrics.metric import MetricSpec, Scope
from klvi.samples import Samples

LOWER, LOG_Z = "eval/log_z_lower", "eval/log_z"
WEIGHTED = {name: spec for name, spec in METRICS.items() if spec.weighted is not None}
SAME = 1e-4


# One context's samples of the policy, and of the prior where there are any.
Pair = tuple[LogProbabilities, LogProbabilities | None]


@dataclass(frozen=True)
class Trust:
    """When importance-sampled metrics are refused, and how wide the intervals are.

    Attributes:
        log_z_bound: a lower bound on log Z known from elsewhere, nats.
        scope: what intervals depend on.
        violated: why what is infinite outside of the target's support is so; None where it is not.
    """

    log_z_bound: float
    scope: Scope
    violated: Unavailable | None


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
    names = {context.row: context.title for context in samples.contexts}
    single = [names[row] for row, part in policy.items() if len(part.policy) == 1]
    if single:
        refusal = Unavailable(f"{single[0]} has a single sample, and Z is a prompt's own")
        log_policy = samples.log_policy_sequence.cpu()
        metrics: dict[str, Metric] = dict.fromkeys(WEIGHTED, refusal)
        if trust.violated is None:
            elbo = estimators.elbo(log_policy, log_target.cpu())
            metrics[LOWER] = interval(elbo, trust.scope.confidence)
        return metrics
    mixtures = {
        prompt: importance.mixture(part, prior.get(prompt)) for prompt, part in policy.items()
    }
    weights = [len(part.policy) / len(samples) for part in policy.values()]
    several = len(mixtures) > 1
    sets = [(part, prior.get(row)) for row, part in policy.items()] if several else []
    worst = _worst_prompt(mixtures, names)
    return _measure(list(mixtures.values()), sets, weights, worst, trust, share)


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


def violations(log_target: Tensor, prior_log_target: Tensor | None) -> Unavailable | None:
    """Why the policy's KL to the target is infinite: it reaches what the target excludes.

    Args:
        log_target: `(N,)` of the policy's samples, −inf outside of the target's support.
        prior_log_target: `(N0,)` of the prior's.
    """
    n, excluded = len(log_target), int(torch.isneginf(log_target).sum())
    if excluded:
        return Unavailable(f"infinite: {excluded} of {n} samples violate the constraint")
    seen = 0 if prior_log_target is None else int(torch.isneginf(prior_log_target).sum())
    if prior_log_target is not None and seen:
        return Unavailable(
            f"infinite: none of {n} samples violates the constraint, but {seen} of "
            f"{len(prior_log_target)} samples of the prior do, and the policy can make them too"
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
    sets: list[Pair],
    weights: list[float],
    worst: _Worst,
    trust: Trust,
    share: float,
) -> dict[str, Metric]:
    n = sum(len(mix.log_weight) for mix in mixtures)
    if all(_featureless(mix) for mix in mixtures):
        reason = f"all {n} samples have the same potential: what the target prefers was not seen"
        return dict.fromkeys(WEIGHTED, Unavailable(reason))

    def measure(estimator: Callable[[Mixture], Estimate], spec: MetricSpec) -> Metric:
        wholes = [estimator(mix) for mix in mixtures]
        triples = zip(wholes, mixtures, sets, strict=True) if sets else ()
        each = [_debiased(estimator, *triple) for triple in triples] or wholes
        return spec.interval(averaged(wholes, each, weights, share), trust.scope)

    refusal = _refusal(worst, trust.scope.ess_floor)
    metrics: dict[str, Metric] = {}
    for name, spec in WEIGHTED.items():
        assert spec.weighted is not None
        if spec.needs_z and refusal is not None:
            metrics[name] = refusal
        elif spec.infinite_outside and trust.violated is not None:
            metrics[name] = trust.violated
        else:
            metrics[name] = measure(spec.weighted, spec)
    missed = _below_bound(metrics[LOG_Z], trust.log_z_bound)
    if missed is not None:
        metrics |= {name: missed for name, spec in WEIGHTED.items() if spec.needs_z}
    return metrics


def _debiased(
    estimator: Callable[[Mixture], Estimate], whole: Estimate, mix: Mixture, drawn: Pair
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
