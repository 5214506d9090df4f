"""All `eval/…` metrics of a set of samples."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import torch
from torch import Tensor

from klvi.metrics import estimators, text
from klvi.metrics.intervals import ROOM, bounded_interval, interval, with_room
from klvi.metrics.measurement import Measurement, Metric, Unavailable
from klvi.metrics.target import Trust, target_metrics
from klvi.samples import Samples

FEWEST_SAMPLES = 2


def evaluate(
    samples: Samples,
    log_target: Tensor,
    *,
    beta: float,
    prior_samples: Samples | None = None,
    prior_log_target: Tensor | None = None,
    log_z_bound: float = -math.inf,
    ess_floor: float = 30.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Metric]:
    """Every metric that klvi reports, by its name, each with an interval or the reason for none.

    Args:
        samples: scored samples of the policy.
        log_target: `(N,)` log P of `samples`, unnormalised, nats per sequence; -inf where the
            target excludes a sample.
        beta: temperature, for `eval/folded_reward_std`.
        prior_samples: scored samples of the prior whose `log_policy` is that of the current policy;
            they reach the parts of the target that a collapsed policy does not.
        prior_log_target: `(N0,)` log P of `prior_samples`.
        log_z_bound: a lower bound on log Z known from elsewhere, such as the largest lower end of
            `eval/elbo` or `eval/log_z` so far; an estimate clearly below it is refused, as its
            samples then miss part of the target.
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
    strata = _prompt_strata(samples)
    trust = Trust(ess_floor=ess_floor, log_z_bound=log_z_bound, confidence=confidence)
    return {
        "eval/reward": _reward(samples, prior_samples, strata, confidence),
        **_policy_metrics(samples, strata, confidence),
        **target_metrics(samples, log_target, prior_samples, prior_log_target, trust),
        "eval/folded_reward_std": _folded_reward_std(samples, log_target, beta, strata, confidence),
        **_text_metrics(samples, strata, confidence, seed),
    }


def _prompt_strata(samples: Samples) -> Tensor | None:
    """`(N,)` prompt numbers, or None with one prompt or where a prompt has a single sample."""
    rows, strata = samples.context.unique(return_inverse=True)
    if len(rows) == 1 or int(torch.bincount(strata).min()) == 1:
        return None
    numbered: Tensor = strata
    return numbered


def _reward(
    samples: Samples, prior_samples: Samples | None, strata: Tensor | None, confidence: float
) -> Measurement:
    """The mean reward, over scorers where there are several.

    Its range is taken to be that of the rewards of policy and prior. One that never varied may yet
    do so: it is taken to reach from its value to 0, and a constant 0 to reach 1 either way.
    """
    sets = [samples] if prior_samples is None else [samples, prior_samples]
    rewards = [part.reward.cpu().double().reshape(len(part), -1).mean(1) for part in sets]
    seen = torch.cat(rewards)
    low, high = float(seen.min()), float(seen.max())
    if low == high:
        low, high = (-1.0, 1.0) if low == 0 else (min(low, 0.0), max(high, 0.0))
    return bounded_interval(estimators.bounded_mean(rewards[0], strata), confidence, low, high)


def _policy_metrics(
    samples: Samples, strata: Tensor | None, confidence: float
) -> dict[str, Metric]:
    log_policy, log_prior = samples.log_policy.cpu().double(), samples.log_prior.cpu().double()
    lengths = samples.lengths.cpu().double()
    entropy = None if samples.entropy is None else samples.entropy.cpu().double()
    kl = None if samples.kl is None else samples.kl.cpu().double()
    surprisal = interval(estimators.log_perplexity(log_prior, lengths, strata), confidence)
    divergence = estimators.kl_prior(log_policy, log_prior, kl, strata)
    found = {
        # Without any difference the policy is the prior.
        "eval/kl_prior": with_room(divergence) if divergence.value > 0 else divergence,
        "eval/entropy": estimators.entropy(log_policy, entropy, strata),
        "eval/entropy_token": estimators.entropy_token(log_policy, lengths, entropy, strata),
    }
    metrics: dict[str, Metric] = {
        name: interval(estimate, confidence, low=0.0) for name, estimate in found.items()
    }
    return metrics | {
        "eval/perplexity_prior": Measurement(
            value=_exponential(surprisal.value),
            low=_exponential(surprisal.low),
            high=_exponential(surprisal.high),
            n=surprisal.n,
        )
    }


def _exponential(nats: float) -> float:
    """`exp`, at most the largest that a float holds: two samples give intervals beyond it."""
    return math.exp(min(nats, math.log(sys.float_info.max)))


def _folded_reward_std(
    samples: Samples, log_target: Tensor, beta: float, strata: Tensor | None, confidence: float
) -> Metric:
    excluded = int((log_target == -math.inf).sum())
    if excluded:
        return Unavailable(f"infinite: {excluded} of {len(samples)} samples violate the constraint")
    log_policy = samples.log_policy.cpu().double().sum(1)
    folded = estimators.folded_reward(log_policy, log_target.cpu(), beta)
    deviation = estimators.standard_deviation(folded, strata)
    found = interval(deviation, confidence, low=0.0)
    if not deviation.carried_by_few:
        return found
    # As `with_room`: what was not drawn, a nat away, adds β²/N to the variance.
    room = ROOM * beta**2 / found.n
    return replace(
        found,
        low=math.sqrt(max(found.low**2 - room, 0.0)),
        high=math.sqrt(found.high**2 + room),
    )


def _text_metrics(
    samples: Samples, strata: Tensor | None, confidence: float, seed: int
) -> dict[str, Metric]:
    tokens, lengths, ended = samples.tokens.cpu(), samples.lengths.cpu(), samples.ended.cpu()
    content, width = lengths - ended.long(), float(tokens.shape[1])
    grams = text.ngrams(tokens, content, max(text.ORDERS))

    def bounded(values: Tensor, low: float, high: float) -> Measurement:
        return bounded_interval(estimators.bounded_mean(values, strata), confidence, low, high)

    metrics: dict[str, Metric] = {}
    for n in text.ORDERS:
        found = text.distinct(grams[n - 1])
        metrics[f"eval/distinct_{n}"] = (
            Unavailable(f"no sample has {n} tokens")
            if found is None
            else bounded_interval(found, confidence, 0.0, 1.0)
        )
    bleu = text.self_bleu_estimate(tokens, content, seed)
    metrics["eval/self_bleu_5"] = bounded_interval(bleu, confidence, 0.0, 1.0)
    for n in text.ORDERS[1:]:
        metrics[f"eval/repetition_{n}"] = bounded(text.repetition(grams[n - 1]), 0.0, 1.0)
    copies = text.duplicates(text.sequence_ids(tokens, lengths))
    return metrics | {
        "eval/duplicates": bounded_interval(copies, confidence, 0.0, 1.0),
        "eval/longest_run": bounded(text.longest_run(tokens, content), 0.0, width),
        "eval/length": bounded(lengths.double(), 1.0, width),
        "eval/eos": bounded(ended.double(), 0.0, 1.0),
    }
