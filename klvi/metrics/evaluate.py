"""All `eval/…` metrics of a set of samples."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from klvi.metrics import estimators, text
from klvi.metrics.intervals import (
    ROOM,
    Estimate,
    bounded_interval,
    interval,
    with_room,
)
from klvi.metrics.jackknife import GROUPS, averaged, debiased, kept
from klvi.metrics.measurement import Measurement, Metric, Unavailable
from klvi.metrics.target import Trust, target_metrics
from klvi.samples import Samples

FEWEST_SAMPLES = 2
PENALISED, PERPLEXITY = "eval/penalised_reward_std", "eval/perplexity_prior"
# Means of variables that lie between two bounds.
BOUNDED = frozenset(
    {
        "eval/reward",
        *(f"eval/repetition_{n}" for n in text.ORDERS[1:]),
        "eval/longest_run",
        "eval/length",
        "eval/eos",
    }
)


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
    if len(samples) < FEWEST_SAMPLES:
        raise ValueError(f"metrics need at least {FEWEST_SAMPLES} samples, not {len(samples)}")
    if (prior_samples is None) != (prior_log_target is None):
        raise ValueError("prior_samples and prior_log_target come together")
    log_target = log_target.cpu().double()
    share = len(samples.context.unique()) / contexts if contexts is not None else 1.0
    trust = Trust(ess_floor=ess_floor, log_z_bound=log_z_bound, confidence=confidence)
    found = _averaged(samples, log_target, beta, share, seed)
    ranges = {
        **_reward_range(samples, prior_samples),
        **_text_ranges(samples.tokens.shape[1]),
    }
    metrics: dict[str, Metric] = {}
    for name, estimate in found.items():
        if isinstance(estimate, Unavailable):
            metrics[name] = estimate
        elif name in ranges:
            metrics[name] = bounded_interval(estimate, confidence, *ranges[name])
        else:
            metrics[name] = _measurement(name, estimate, beta, confidence)
    metrics |= target_metrics(samples, log_target, prior_samples, prior_log_target, trust, share)
    return {name: _finite(metric, beta) for name, metric in metrics.items()}


def _finite(metric: Metric, beta: float) -> Metric:
    if isinstance(metric, Unavailable):
        return metric
    if all(map(math.isfinite, (metric.value, metric.low, metric.high))):
        return metric
    return Unavailable(f"beyond the range of 64-bit numbers at beta={beta:g} and these rewards")


def _averaged(
    samples: Samples, log_target: Tensor, beta: float, share: float, seed: int
) -> dict[str, Estimate | Unavailable]:
    """What is said of the policy's samples alone, by metric: the mean over contexts."""
    groups = _groups(samples)
    chosen = [(samples.select(rows), log_target[rows.cpu()]) for rows in groups]
    parts = [_estimates(*context, beta, seed) for context in chosen]
    better = parts
    if len(groups) > 1:
        pairs = zip(parts, chosen, strict=True)
        better = [_debiased(part, *context, beta) for part, context in pairs]
    weights = [len(rows) / len(samples) for rows in groups]
    excluded = int((log_target == -math.inf).sum())
    found: dict[str, Estimate | Unavailable] = {}
    for name in parts[0]:
        missing = [
            f"{reason} ({samples.contexts[int(rows[0])].title})" if len(groups) > 1 else reason
            for rows, part in zip(groups, parts, strict=True)
            if (reason := _reason(part[name]))
        ]
        if name == PENALISED and excluded:
            found[name] = Unavailable(
                f"infinite: {excluded} of {len(samples)} samples violate the constraint"
            )
        elif missing:
            found[name] = Unavailable(missing[0])
        else:
            estimates, each = (
                [e for part in every if isinstance(e := part[name], Estimate)]
                for every in (parts, better)
            )
            mean = averaged(estimates, each, weights, share)
            found[name] = _of_bounded(mean, share) if name in BOUNDED else mean
    return found


def _debiased(
    found: Mapping[str, Estimate | Unavailable], samples: Samples, log_target: Tensor, beta: float
) -> Mapping[str, Estimate | Unavailable]:
    """What was found of one of several contexts, its numeric estimates less their bias."""
    if len(samples) < 2 * GROUPS:
        return found

    def without(group: int) -> Mapping[str, Estimate]:
        keep = kept(len(samples), group)
        part = samples.select(keep.to(samples.lengths.device))
        return _numeric_estimates(part, log_target[keep], beta)

    partial = [without(group) for group in range(GROUPS)]
    better = {
        name: debiased(whole, [values[name].value for values in partial])
        for name in partial[0]
        if isinstance(whole := found[name], Estimate)
    }
    return {**found, **better}


def _reason(found: Estimate | Unavailable) -> str:
    return found.reason if isinstance(found, Unavailable) else ""


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


def _estimates(
    samples: Samples, log_target: Tensor, beta: float, seed: int
) -> Mapping[str, Estimate | Unavailable]:
    """What is said of the samples of one context."""
    return {**_numeric_estimates(samples, log_target, beta), **_text_estimates(samples, seed)}


def _numeric_estimates(samples: Samples, log_target: Tensor, beta: float) -> Mapping[str, Estimate]:
    """What is said of the log-probabilities and rewards of one context's samples."""
    log_policy, log_prior = samples.log_policy.cpu().double(), samples.log_prior.cpu().double()
    lengths = samples.lengths.cpu().double()
    entropy = None if samples.entropy is None else samples.entropy.cpu().double()
    kl = None if samples.kl is None else samples.kl.cpu().double()
    penalised = estimators.penalised_reward(log_policy.sum(1), log_target, beta)
    return {
        "eval/reward": estimators.bounded_mean(_rewards(samples)),
        "eval/kl_prior": estimators.kl_prior(log_policy, log_prior, kl),
        "eval/entropy": estimators.entropy(log_policy, entropy),
        "eval/entropy_token": estimators.entropy_token(log_policy, lengths, entropy),
        PERPLEXITY: estimators.log_perplexity(log_prior, lengths),
        PENALISED: estimators.standard_deviation(penalised),
    }


def _rewards(samples: Samples) -> Tensor:
    return samples.reward.cpu().double()


def _reward_range(
    samples: Samples, prior_samples: Samples | None
) -> dict[str, tuple[float, float]]:
    """The range of a reward is taken to be that of the rewards of policy and prior.

    One that never varied may yet do so: it is taken to reach from its value to 0, and a constant 0
    to reach 1 either way.
    """
    sets = [samples] if prior_samples is None else [samples, prior_samples]
    seen = torch.cat([_rewards(part) for part in sets])
    low, high = float(seen.min()), float(seen.max())
    if low == high:
        low, high = (-1.0, 1.0) if low == 0 else (min(low, 0.0), max(high, 0.0))
    return {"eval/reward": (low, high)}


def _measurement(name: str, found: Estimate, beta: float, confidence: float) -> Metric:
    """The interval of a metric that has no upper bound, from what was found."""
    if name == PERPLEXITY:
        nats = interval(found, confidence)
        value, low, high = map(_exponential, (nats.value, nats.low, nats.high))
        return Measurement(value, low, high, nats.n)
    if name == "eval/kl_prior" and found.value > 0:
        # Without any difference the policy is the prior.
        found = with_room(found)
    measured = interval(found, confidence, low=0.0)
    if name != PENALISED or not found.carried_by_few:
        return measured
    # As `with_room`: what was not drawn, a nat away, adds β²/N to the variance.
    room = math.sqrt(ROOM / found.size) * beta
    low = math.sqrt(max((measured.low - room) * (measured.low + room), 0.0))
    return replace(measured, low=low, high=math.hypot(measured.high, room))


def _exponential(nats: float) -> float:
    """`exp`, at most the largest that a float holds: two samples give intervals beyond it."""
    return math.exp(min(nats, math.log(sys.float_info.max)))


def _text_ranges(width: int) -> dict[str, tuple[float, float]]:
    """Between which bounds the statistics of texts of at most `width` tokens lie."""
    unit = [*(f"distinct_{n}" for n in text.ORDERS), *(f"repetition_{n}" for n in text.ORDERS[1:])]
    ranges = {f"eval/{name}": (0.0, 1.0) for name in (*unit, "self_bleu_5", "duplicates", "eos")}
    return ranges | {
        "eval/longest_run": (0.0, float(width)),
        "eval/length": (1.0, float(width)),
    }


def _text_estimates(samples: Samples, seed: int) -> dict[str, Estimate | Unavailable]:
    tokens, lengths, ended = samples.tokens.cpu(), samples.lengths.cpu(), samples.ended.cpu()
    content = lengths - ended.long()
    grams = text.ngrams(tokens, content, max(text.ORDERS))
    found: dict[str, Estimate | Unavailable] = {}
    for n in text.ORDERS:
        types = text.distinct(grams[n - 1])
        found[f"eval/distinct_{n}"] = types or Unavailable(f"no sample has {n} tokens")
    found["eval/self_bleu_5"] = text.self_bleu_estimate(tokens, content, seed)
    for n in text.ORDERS[1:]:
        found[f"eval/repetition_{n}"] = estimators.bounded_mean(text.repetition(grams[n - 1]))
    return found | {
        "eval/duplicates": text.duplicates(text.sequence_ids(tokens, lengths)),
        "eval/longest_run": estimators.bounded_mean(text.longest_run(tokens, content)),
        "eval/length": estimators.bounded_mean(lengths.double()),
        "eval/eos": estimators.bounded_mean(ended.double()),
    }
