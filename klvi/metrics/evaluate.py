"""All `eval/…` metrics of a set of samples."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from klvi.metrics.catalogue import METRICS
from klvi.metrics.intervals import Estimate
from klvi.metrics.jackknife import GROUPS, averaged, debiased
from klvi.metrics.measurement import Metric, Unavailable
from klvi.metrics.metric import Drawn, MetricSpec, Scope
from klvi.metrics.target import Trust, target_metrics, violations
from klvi.samples import Samples

MIN_SAMPLES = 2
Found = Estimate | Unavailable


def evaluate(
    samples: Samples,
    log_target: Tensor,
    *,
    beta: float,
    prior_samples: Samples | None = None,
    prior_log_target: Tensor | None = None,
    contexts: int | None = None,
    log_z_bound: float = -math.inf,
    ess_floor: float = 30.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Metric]:
    """Every metric that klvi reports, by its name, each with an interval or the reason for none.

    Each is estimated for each context by itself, and then averaged; intervals are those of the
    mean over all contexts.

    Args:
        samples: scored samples of the policy.
        log_target: `(N,)` log P of `samples`, unnormalised, nats per sequence; -inf where the
            target excludes a sample.
        beta: temperature, for `eval/penalised_reward_std`.
        prior_samples: scored samples of the prior whose `log_policy` is that of the current policy;
            they reach the parts of the target that a collapsed policy does not.
        prior_log_target: `(N0,)` log P of `prior_samples`.
        contexts: how many there are in all, of which those of the samples are a random subset; None
            where they are all.
        log_z_bound: a lower bound on log Z known from elsewhere, such as the largest lower end of
            `eval/log_z_lower` or `eval/log_z` so far; an estimate clearly below it is refused, as
            its samples then miss part of the target.
        ess_floor: effective sample size, per prompt, below which importance-sampled metrics are
            unavailable.
        confidence: of the intervals.
        seed: of the grouping behind the interval of self-BLEU.

    Raises:
        ValueError: there are fewer than two samples, or one of `prior_samples` and
            `prior_log_target` is missing.
    """
    if len(samples) < MIN_SAMPLES:
        raise ValueError(f"metrics need at least {MIN_SAMPLES} samples, not {len(samples)}")
    if (prior_samples is None) != (prior_log_target is None):
        raise ValueError("prior_samples and prior_log_target come together")
    log_target = log_target.cpu().double()
    share = len(samples.context.unique()) / contexts if contexts is not None else 1.0
    scope = Scope(
        confidence=confidence,
        beta=beta,
        width=samples.tokens.shape[1],
        rewards=_reward_range(samples, prior_samples),
        ess_floor=ess_floor,
    )
    violated = violations(log_target, prior_log_target)
    metrics: dict[str, Metric] = {
        name: found if isinstance(found, Unavailable) else METRICS[name].interval(found, scope)
        for name, found in _averaged(samples, log_target, beta, share, seed).items()
    }
    trust = Trust(log_z_bound, scope, violated)
    metrics |= target_metrics(samples, log_target, prior_samples, prior_log_target, trust, share)
    if violated is not None:
        metrics |= {name: violated for name, spec in METRICS.items() if spec.infinite_outside}
    return {name: _finite(metrics[name], beta) for name in METRICS if name in metrics}


def _finite(metric: Metric, beta: float) -> Metric:
    if isinstance(metric, Unavailable):
        return metric
    if all(map(math.isfinite, (metric.value, metric.low, metric.high))):
        return metric
    return Unavailable(f"beyond the range of 64-bit numbers at beta={beta:g} and these rewards")


def _averaged(
    samples: Samples, log_target: Tensor, beta: float, share: float, seed: int
) -> dict[str, Found]:
    """What is said of the policy's samples alone, by metric: the mean over contexts."""
    groups = _groups(samples)
    chosen = [Drawn(samples.select(rows), log_target[rows.cpu()], beta, seed) for rows in groups]
    weights = [len(rows) / len(samples) for rows in groups]
    found: dict[str, Found] = {}
    for name, spec in METRICS.items():
        if spec.estimate is None:
            continue
        parts = [spec.estimate(drawn) for drawn in chosen]
        missing = [
            f"{part.reason} ({drawn.samples.contexts[0].title})" if len(groups) > 1 else part.reason
            for drawn, part in zip(chosen, parts, strict=True)
            if isinstance(part, Unavailable)
        ]
        estimates = [part for part in parts if isinstance(part, Estimate)]
        if missing:
            found[name] = Unavailable(missing[0])
            continue
        better = estimates
        if spec.numeric and len(groups) > 1:
            pairs = zip(estimates, chosen, strict=True)
            better = [_debiased(spec, part, drawn) for part, drawn in pairs]
        mean = averaged(estimates, better, weights, share)
        found[name] = _of_bounded(mean, share) if spec.bounded else mean
    return found


def _debiased(spec: MetricSpec, whole: Estimate, drawn: Drawn) -> Estimate:
    """One of several contexts' estimates, less its bias."""
    count = len(drawn.samples)
    if count < 2 * GROUPS:
        return whole
    assert spec.estimate is not None
    values = []
    for group in range(GROUPS):
        part = spec.estimate(drawn.without(group))
        assert isinstance(part, Estimate), "numeric estimates are of any samples"
        values.append(part.value)
    return debiased(whole, values)


def _of_bounded(mean: Estimate, share: float) -> Estimate:
    """A score interval's variance follows from the mean, whose skewness it knows as well."""
    degrees = mean.n - 1.0 if share == 1 else mean.degrees
    return replace(mean, degrees=degrees, skewness=0.0)


def _groups(samples: Samples) -> list[Tensor]:
    """Which samples `(n,)` each context has; all together where a context has a single one."""
    rows, place = samples.context.unique(return_inverse=True)
    device = samples.lengths.device
    if len(rows) == 1 or int(torch.bincount(place).min()) == 1:
        return [torch.arange(len(samples), device=device)]
    return [(place == number).nonzero()[:, 0].to(device) for number in range(len(rows))]


def _reward_range(samples: Samples, prior_samples: Samples | None) -> tuple[float, float]:
    """The range of a reward is taken to be that of the rewards of policy and prior.

    One that never varied may yet do so: it is taken to reach from its value to 0, and a constant 0
    to reach 1 either way.
    """
    sets = [samples] if prior_samples is None else [samples, prior_samples]
    seen = torch.cat([part.reward.cpu().double() for part in sets])
    low, high = float(seen.min()), float(seen.max())
    if low == high:
        low, high = (-1.0, 1.0) if low == 0 else (min(low, 0.0), max(high, 0.0))
    return low, high
