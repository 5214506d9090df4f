"""All `eval/…` metrics of a set of samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from klvi.metrics import estimators, importance, text
from klvi.metrics.importance import LogProbabilities, Mixture
from klvi.metrics.intervals import Estimate, average, interval, log_interval
from klvi.metrics.measurement import Measurement, Metric, Unavailable
from klvi.samples import Samples

TARGET_ESTIMATORS: dict[str, Callable[[Mixture], Estimate]] = {
    "eval/kl_target_reverse": importance.kl_reverse,
    "eval/kl_target_forward": importance.kl_forward,
    "eval/tv_target": importance.total_variation,
    "eval/log_z": importance.log_z,
    "eval/log_z_lower": importance.log_z_lower,
    "eval/log_z_upper": importance.log_z_upper,
    "eval/ess": importance.effective_sample_size,
    "eval/elbo": importance.log_z_lower,
}
INFINITE_OUTSIDE_SUPPORT = {"eval/kl_target_reverse", "eval/log_z_lower", "eval/elbo"}


@dataclass(frozen=True)
class Settings:
    """How intervals are drawn and when importance weights are refused."""

    ess_floor: float = 30.0
    confidence: float = 0.95


def evaluate(
    samples: Samples,
    log_target: Tensor,
    *,
    beta: float,
    prior_samples: Samples | None = None,
    prior_log_target: Tensor | None = None,
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
        prior_samples: scored samples of the prior whose `log_policy` is the current policy's; they
            complete the proposal of the importance-sampled metrics.
        prior_log_target: `(N0,)` log P of `prior_samples`.
        ess_floor: effective sample size, per prompt, below which importance-sampled metrics are
            unavailable.
        confidence: of the intervals.
        seed: of the resampling behind the intervals of corpus statistics.
    """
    settings = Settings(ess_floor, confidence)
    strata = _prompt_strata(samples)
    metrics = _policy_metrics(samples, log_target, prior_samples, beta, strata, confidence)
    metrics |= _target_metrics(samples, log_target, prior_samples, prior_log_target, settings)
    return metrics | _text_metrics(samples, strata, confidence, seed)


def _prompt_strata(samples: Samples) -> Tensor | None:
    """`(N,)` prompt numbers, or None with one prompt or where a prompt has a single sample."""
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(samples.prompts))}
    strata = torch.tensor([numbers[prompt] for prompt in samples.prompts])
    if len(numbers) == 1 or int(torch.bincount(strata).min()) == 1:
        return None
    return strata


def _policy_metrics(
    samples: Samples,
    log_target: Tensor,
    prior_samples: Samples | None,
    beta: float,
    strata: Tensor | None,
    confidence: float,
) -> dict[str, Metric]:
    log_policy, log_prior = samples.log_policy.double(), samples.log_prior.double()
    lengths = samples.lengths.double()
    sets = [samples] if prior_samples is None else [samples, prior_samples]
    rewards = [_scalar_reward(part.reward) for part in sets]
    kl = estimators.kl_prior(log_policy, log_prior, samples.kl, strata)
    entropy = estimators.entropy(log_policy, samples.entropy, strata)
    token = estimators.entropy_token(log_policy, lengths, samples.entropy, strata)
    surprisal = estimators.log_perplexity(log_prior, lengths, strata)
    return {
        "eval/reward": interval(
            estimators.mean(rewards[0], strata=strata), confidence, *_reward_range(rewards)
        ),
        "eval/kl_prior": interval(kl, confidence, low=0.0),
        "eval/entropy": interval(entropy, confidence, low=0.0),
        "eval/entropy_token": interval(token, confidence, low=0.0),
        "eval/perplexity_prior": _exponential(interval(surprisal, confidence)),
        "eval/folded_reward_std": _folded_reward_std(samples, log_target, beta, strata, confidence),
    }


def _scalar_reward(reward: Tensor) -> Tensor:
    reward = reward.double()
    return reward.mean(1) if reward.dim() > 1 else reward


def _reward_range(rewards: list[Tensor]) -> tuple[float, float]:
    """The range that the reward is taken to have: that of the samples of policy and prior.

    A reward that never varied may yet do so: it is then taken to reach from its value to 0, and a
    constant 0 to reach 1 either way.
    """
    values = torch.cat(rewards)
    low, high = float(values.min()), float(values.max())
    if low < high:
        return low, high
    return (-1.0, 1.0) if low == 0 else (min(low, 0.0), max(high, 0.0))


def _exponential(measured: Measurement) -> Measurement:
    return Measurement(
        math.exp(measured.value), math.exp(measured.low), math.exp(measured.high), measured.n
    )


def _folded_reward_std(
    samples: Samples, log_target: Tensor, beta: float, strata: Tensor | None, confidence: float
) -> Metric:
    excluded = int((log_target == -math.inf).sum())
    if excluded:
        return Unavailable(f"infinite: {excluded} of {len(samples)} samples violate the constraint")
    folded = estimators.folded_reward(samples.log_policy_sequence, log_target, beta)
    return log_interval(estimators.standard_deviation(folded, strata), confidence)


def _target_metrics(
    samples: Samples,
    log_target: Tensor,
    prior_samples: Samples | None,
    prior_log_target: Tensor | None,
    settings: Settings,
) -> dict[str, Metric]:
    """The metrics that compare policy and target, per prompt and then averaged over samples."""
    policy = _by_prompt(samples, log_target)
    prior = (
        {}
        if prior_samples is None or prior_log_target is None
        else _by_prompt(prior_samples, prior_log_target)
    )
    mixtures = {
        prompt: importance.mixture(part, prior.get(prompt)) for prompt, part in policy.items()
    }
    weights = [len(part.policy) / len(samples) for part in policy.values()]
    refusal = _refusal(mixtures, settings.ess_floor)
    infinite = _violations(policy, prior)
    metrics: dict[str, Metric] = {}
    for name, estimator in TARGET_ESTIMATORS.items():
        if infinite is not None and name in INFINITE_OUTSIDE_SUPPORT:
            metrics[name] = infinite
        elif refusal is not None and name not in {"eval/ess", "eval/log_z_lower", "eval/elbo"}:
            metrics[name] = refusal
        else:
            found = average([estimator(mix) for mix in mixtures.values()], weights)
            metrics[name] = _target_interval(name, found, settings.confidence)
    return metrics


def _target_interval(name: str, found: Estimate, confidence: float) -> Measurement:
    if name == "eval/tv_target":
        return interval(found, confidence, 0.0, 1.0)
    if name == "eval/ess":
        return interval(found, confidence, 0.0, float(found.n))
    return interval(found, confidence, low=0.0 if "/kl_" in name else -math.inf)


def _by_prompt(samples: Samples, log_target: Tensor) -> dict[str, LogProbabilities]:
    rows: dict[str, list[int]] = {}
    for i, prompt in enumerate(samples.prompts):
        rows.setdefault(prompt, []).append(i)
    log_policy = samples.log_policy.double().sum(1).cpu()
    log_prior = samples.log_prior.double().sum(1).cpu()
    target = log_target.double().cpu()
    return {
        prompt: LogProbabilities(log_policy[chosen], log_prior[chosen], target[chosen])
        for prompt, chosen in rows.items()
    }


def _refusal(mixtures: dict[str, Mixture], floor: float) -> Unavailable | None:
    """Why the weights cannot be trusted: the worst prompt's effective sample size, if too low."""
    sizes = {
        prompt: (importance.effective_sample_size(mix).value, len(mix.log_weight))
        for prompt, mix in mixtures.items()
    }
    worst = min(sizes, key=lambda prompt: sizes[prompt][0])
    size, n = sizes[worst]
    if size >= floor:
        return None
    place = f" for prompt {worst!r}" if len(sizes) > 1 else ""
    if size == 0:
        return Unavailable(f"no sample of {n} has a positive target probability{place}")
    return Unavailable(
        f"effective sample size {size:.1f} of {n} samples{place} is below the floor of {floor:g}"
    )


def _violations(
    policy: dict[str, LogProbabilities], prior: dict[str, LogProbabilities]
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
            "samples of the prior do and the policy can still make them"
        )
    return None


def _text_metrics(
    samples: Samples, strata: Tensor | None, confidence: float, seed: int
) -> dict[str, Metric]:
    tokens, lengths, ended = samples.tokens.cpu(), samples.lengths.cpu(), samples.ended.cpu()
    content = lengths - ended.long()
    width = float(tokens.shape[1])
    grams = text.ngrams(tokens, content, max(text.ORDERS))

    def bounded(values: Tensor, low: float, high: float) -> Measurement:
        return interval(estimators.mean(values, strata=strata), confidence, low, high)

    metrics: dict[str, Metric] = {}
    for n in text.ORDERS:
        found = text.distinct(grams[n - 1])
        metrics[f"eval/distinct_{n}"] = (
            Unavailable(f"no sample has {n} tokens")
            if found is None
            else interval(found, confidence, 0.0, 1.0)
        )
    metrics["eval/self_bleu_5"] = bounded(text.self_bleu(tokens, content), 0.0, 1.0)
    for n in text.ORDERS[1:]:
        metrics[f"eval/repetition_{n}"] = bounded(text.repetition(grams[n - 1]), 0.0, 1.0)
    ids = text.sequence_ids(tokens, lengths)
    return metrics | {
        "eval/duplicates": interval(text.duplicates(ids), confidence, 0.0, 1.0),
        "eval/longest_run": bounded(text.longest_run(tokens, content), 0.0, width),
        "eval/length": bounded(lengths.double(), 1.0, width),
        "eval/eos": bounded(ended.double(), 0.0, 1.0),
    }
