"""All `eval/…` metrics of a set of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from klvi.metrics.availability import Lacking, lacking_in, refusal
from klvi.metrics.catalogue import metrics_of
from klvi.metrics.intervals import Estimate
from klvi.metrics.jackknife import GROUPS, averaged, debiased
from klvi.metrics.measurement import Metric, Unavailable
from klvi.metrics.metric import (
    WEIGHING,
    Drawn,
    MetricSpec,
    Scope,
    naming_metric,
    reported,
    target_needs,
)
from klvi.metrics.sampling import Sampling
from klvi.metrics.split import GOLD, best_tilt
from klvi.metrics.target import Weighing, below_bound
from klvi.samples import Draw, Samples

MIN_SAMPLES = 2
LOG_Z = "eval/log_z"
Found = Estimate | Unavailable


def evaluate(
    draw: Draw,
    log_target: Tensor,
    *,
    beta: float,
    sampler: str = "the sampler",
    prior_samples: Samples | None = None,
    prior_log_target: Tensor | None = None,
    contexts: int | None = None,
    pass_k: Sequence[int] = (),
    no_target: str | None = None,
    log_z_bound: float = -math.inf,
    ess_floor: float = 30.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Metric]:
    """Every metric that klvi reports, by its name, each with an interval or the reason for none.

    Each is estimated for each context by itself, and then averaged; intervals are those of the
    mean over all contexts. Weights and replicates of the samples count in all of them.

    Args:
        draw: scored samples of what is measured.
        log_target: `(N,)` log P of the samples, unnormalised, nats per sequence; -inf where the
            target excludes a sample.
        beta: temperature, for `eval/penalised_reward_std`.
        sampler: the name of what drew the samples, for reasons.
        prior_samples: scored samples of the prior whose `log_policy` is that of the current policy;
            they reach the parts of the target that a collapsed policy does not.
        prior_log_target: `(N0,)` log P of `prior_samples`.
        contexts: how many there are in all, of which those of the samples are a random subset; None
            where they are all.
        pass_k: the numbers of samples k for which pass@k is wanted.
        no_target: why log P is unknown, whatever stands in for it; None where it is known.
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
    samples = draw.samples
    if len(samples) < MIN_SAMPLES:
        raise ValueError(f"metrics need at least {MIN_SAMPLES} samples, not {len(samples)}")
    if (prior_samples is None) != (prior_log_target is None):
        raise ValueError("prior_samples and prior_log_target come together")
    known = metrics_of(samples.scores, pass_k).values()
    specs = [spec for spec in known if spec.estimated and reported(spec, samples.scores)]
    if Sampling.of(samples).count(len(samples)) < MIN_SAMPLES:
        reason = f"all {len(samples)} samples are of one replicate, and an interval needs two"
        return {spec.name: Unavailable(reason) for spec in specs}
    log_target = log_target.cpu().double()
    groups, single = _groups(samples)
    unknown = {} if no_target is None else {"target": Unavailable(no_target)}
    weights = own = _Weights.of(
        draw, log_target, prior_samples, prior_log_target, sampler, ess_floor, unknown | single
    )
    if draw.represents != "policy" and prior_samples is not None and prior_log_target is not None:
        given = Draw(replace(prior_samples, log_policy=prior_samples.log_prior))
        lacking = unknown | _groups(prior_samples)[1]
        own = _Weights.of(given, prior_log_target, None, None, "the prior", ess_floor, lacking)
    cost = draw.cost.tokens / len(samples)
    estimation = _Estimation(
        draw=draw,
        parts=[
            Drawn(samples.select(rows), log_target[rows.cpu()], beta, seed, draw.represents, cost)
            for rows in groups
        ],
        weights=weights,
        own=own,
        share=1.0 if contexts is None or single else len(samples.context.unique()) / contexts,
        scope=Scope(
            confidence=confidence,
            beta=beta,
            width=samples.tokens.shape[1],
            ranges={name: _range(name, samples, prior_samples) for name in samples.scores},
            ess_floor=ess_floor,
        ),
    )
    metrics = {spec.name: estimation.measure(spec) for spec in specs}
    missed = below_bound(metrics[LOG_Z], log_z_bound)
    if missed is not None:
        estimation = estimation.without({"log_z": missed})
        trusting = (spec for spec in specs if "log_z" in spec.needs)
        metrics |= {spec.name: estimation.measure(spec) for spec in trusting}
    return metrics


@dataclass(frozen=True)
class _Weights:
    """Importance weights, None where the samples give none, and what is lacking for metrics."""

    weighing: Weighing | None
    lacking: Lacking

    @staticmethod
    def of(
        draw: Draw,
        log_target: Tensor,
        prior_samples: Samples | None,
        prior_log_target: Tensor | None,
        sampler: str,
        floor: float,
        lacking: Lacking,
    ) -> _Weights:
        """Of a draw, together with samples of the prior where they are given.

        Args: as `evaluate`; `lacking` is known to be so beforehand.
        """
        lacking = lacking | lacking_in(draw, log_target, prior_log_target, sampler)
        if lacking.keys() & WEIGHING:
            return _Weights(None, lacking)
        weighing = Weighing.of(draw, log_target, prior_samples, prior_log_target)
        lacking |= weighing.lacking(floor)
        if GOLD in weighing.mixtures[0].scores and not lacking.keys() & target_needs():
            tilt = best_tilt(weighing, floor)
            if isinstance(tilt, Unavailable):
                lacking |= {"gold_best": tilt}
            else:
                weighing = weighing.tilted(tilt)
        return _Weights(weighing, lacking)


@dataclass(frozen=True)
class _Estimation:
    """What every metric is estimated from.

    Attributes:
        draw: what is measured.
        parts: its samples for each context, or all together.
        weights: importance weights of the draw.
        own: those for the target's own numbers: of a policy's draw the same, otherwise the prior's.
        share: of all contexts, those that have samples.
        scope: of the intervals.
    """

    draw: Draw
    parts: Sequence[Drawn]
    weights: _Weights
    own: _Weights
    share: float
    scope: Scope

    def without(self, lacking: Lacking) -> _Estimation:
        """The same, but that the draw's weights are found to be `lacking` as well."""
        weights = replace(self.weights, lacking=self.weights.lacking | lacking)
        return replace(self, weights=weights, own=weights if self.own is self.weights else self.own)

    def measure(self, spec: MetricSpec) -> Metric:
        """A metric with its interval, or why it is unavailable."""
        with naming_metric(spec):
            return self._measured(spec, self.own if spec.of_target else self.weights)

    def _measured(self, spec: MetricSpec, weights: _Weights) -> Metric:
        found: Found | None = refusal(spec, weights.lacking, self.draw)
        if found is None and spec.weighted is not None and weights.weighing is not None:
            found = weights.weighing.estimate(spec.weighted, self.share)
        elif found is None:
            found = _averaged(spec, self.parts, self.share)
        if isinstance(found, Unavailable):
            return found
        return _finite(spec.interval(found, self.scope), self.scope.beta)


def _finite(metric: Metric, beta: float) -> Metric:
    if isinstance(metric, Unavailable):
        return metric
    if all(map(math.isfinite, (metric.value, metric.low, metric.high))):
        return metric
    return Unavailable(f"beyond the range of 64-bit numbers at beta={beta:g} and these rewards")


def _averaged(spec: MetricSpec, parts: Sequence[Drawn], share: float) -> Found:
    """The mean of a metric over contexts, from the samples of each alone."""
    assert spec.estimate is not None, "without weights a metric needs density and contexts"
    found = [spec.estimate(drawn) for drawn in parts]
    for part, drawn in zip(found, parts, strict=True):
        if isinstance(part, Unavailable):
            place = f" ({drawn.samples.contexts[0].title})" if len(parts) > 1 else ""
            return Unavailable(f"{part.reason}{place}")
    better = estimates = [part for part in found if isinstance(part, Estimate)]
    if spec.numeric and len(parts) > 1:
        pairs = zip(estimates, parts, strict=True)
        better = [_debiased(spec, part, drawn) for part, drawn in pairs]
    total = sum(len(drawn.samples) for drawn in parts)
    weights = [len(drawn.samples) / total for drawn in parts]
    mean = averaged(estimates, better, weights, share)
    return _of_bounded(mean, share) if spec.bounded else mean


def _debiased(spec: MetricSpec, whole: Estimate, drawn: Drawn) -> Estimate:
    """One of several contexts' estimates, less its bias."""
    if drawn.sampling.count(len(drawn.samples)) < 2 * GROUPS:
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
    degrees = max(mean.size - 1.0, 1.0) if share == 1 else mean.degrees
    return replace(mean, degrees=degrees, skewness=0.0)


def _groups(samples: Samples) -> tuple[list[Tensor], Lacking]:
    """Which samples `(n,)` each context has; all together where one has a single replicate."""
    rows, place = samples.context.unique(return_inverse=True)
    device = samples.lengths.device
    together = [torch.arange(len(samples), device=device)]
    if len(rows) == 1:
        return together, {}
    chosen = [(place == number).nonzero()[:, 0].to(device) for number in range(len(rows))]
    units = Sampling.of(samples).units
    for each in chosen:
        if len(each) == 1 or (units is not None and len(units[each.cpu()].unique()) == 1):
            title = samples.contexts[int(each[0])].title
            what = "sample" if len(each) == 1 else "replicate"
            reason = f"{title} has a single {what}, and Z is a prompt's own"
            return together, {"contexts": Unavailable(reason)}
    return chosen, {}


def _range(name: str, samples: Samples, prior_samples: Samples | None) -> tuple[float, float]:
    """The range of a score is taken to be that of the scores of policy and prior.

    One that never varied may yet do so: it is taken to reach from its value to 0, and a constant 0
    to reach 1 either way.
    """
    sets = [samples] if prior_samples is None else [samples, prior_samples]
    seen = torch.cat([part.scores[name].cpu().double() for part in sets if name in part.scores])
    low, high = float(seen.min()), float(seen.max())
    if low == high:
        low, high = (-1.0, 1.0) if low == 0 else (min(low, 0.0), max(high, 0.0))
    return low, high
