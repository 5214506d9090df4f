"""Estimators from samples of one distribution alone: means, and means with a control variate.

All take float tensors over samples of one context, weighted and dependent as `sampling` describes,
and reduce in float64.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from klvi.metrics.intervals import Estimate, centre
from klvi.metrics.sampling import INDEPENDENT, Sampling


def mean(
    values: Tensor, control: Tensor | None = None, sampling: Sampling = INDEPENDENT
) -> Estimate:
    """The mean of `values` `(N,)`, less the optimal multiple of `control` `(N,)`, whose mean is 0.

    `values − c·control` has the variance of `values` or less (Amini et al. 2025, arXiv 2504.10637).
    """
    return ratio(values, torch.ones_like(values), control, sampling)


def bounded_mean(values: Tensor, sampling: Sampling = INDEPENDENT) -> Estimate:
    """The mean of a bounded variable `(N,)`, for the score interval.

    That interval's variance follows from the mean, so it has N − 1 degrees of freedom however few
    samples differ from the others.
    """
    degrees = max(sampling.size(len(values)) - 1, 1.0)
    return replace(mean(values, sampling=sampling), degrees=degrees, skewness=0.0)


def ratio(
    numerator: Tensor,
    denominator: Tensor,
    control: Tensor | None = None,
    sampling: Sampling = INDEPENDENT,
) -> Estimate:
    """`E[numerator]/E[denominator]`, `(N,)` each, by the delta method; `control` as in `mean`.

    With weights both means are weighted sums, so that their ratio is self-normalised.
    """
    top, bottom = sampling.weighted(numerator.double()), sampling.weighted(denominator.double())
    value = float(top.mean() / bottom.mean())
    influence = (top - value * bottom) / bottom.mean()
    if control is None:
        return sampling.estimate(value, influence)
    zero = sampling.weighted(control.double())
    deviations, _ = centre(zero)
    spread = float(deviations.square().sum())
    factor = float((deviations * influence).sum()) / spread if spread > 0 else 0.0
    return sampling.estimate(value - factor * float(zero.mean()), influence - factor * zero)


def kl_k1(log_policy: Tensor, log_prior: Tensor) -> Tensor:
    """`log π − log π0` `(N,)` per sequence from `(N, T)` or `(N,)`; its mean is KL(π‖π0)."""
    return _sequence(log_policy) - _sequence(log_prior)


def kl_prior(
    log_density: Tensor, log_prior: Tensor, kl: Tensor | None, sampling: Sampling = INDEPENDENT
) -> Estimate:
    """`KL(π‖π0)`, nats per sequence, from `(N, T)` tensors, or `(N,)` without `kl`.

    `kl` holds the exact KL of the next-token distributions at each sampled prefix; its sum over T
    is the Rao-Blackwellised estimate, and k1's difference from it the control variate.
    """
    k1 = kl_k1(log_density, log_prior)
    found = mean(k1, None if kl is None else k1 - _sequence(kl), sampling)
    return replace(found, value=max(found.value, 0.0))


def entropy(
    log_density: Tensor, entropy: Tensor | None, sampling: Sampling = INDEPENDENT
) -> Estimate:
    """Entropy, nats per sequence; `entropy` `(N, T)` is that of the policy's next token."""
    surprisal = -_sequence(log_density)
    return mean(surprisal, None if entropy is None else surprisal - _sequence(entropy), sampling)


def entropy_token(
    log_density: Tensor, lengths: Tensor, entropy: Tensor | None, sampling: Sampling = INDEPENDENT
) -> Estimate:
    """Entropy per sequence over the mean length, nats per token."""
    surprisal = -_sequence(log_density)
    control = None if entropy is None else surprisal - _sequence(entropy)
    return ratio(surprisal, lengths, control, sampling)


def log_perplexity(
    log_prior: Tensor, lengths: Tensor, sampling: Sampling = INDEPENDENT
) -> Estimate:
    """`−Σ log π0 / Σ length` of the samples, nats per token: the perplexity's logarithm."""
    return ratio(-_sequence(log_prior), lengths, sampling=sampling)


def standard_deviation(values: Tensor, sampling: Sampling = INDEPENDENT) -> Estimate:
    """Standard deviation of `values` `(N,)`."""
    values = values.double()
    if sampling.weight is None:
        deviations, sizes = centre(values)
        squares = deviations.square() * sizes / (sizes - 1)
    else:
        size = sampling.size(len(values))
        deviations = values - sampling.weighted(values).mean()
        squares = deviations.square() * size / max(size - 1, 1.0)
    value = math.sqrt(float(sampling.weighted(squares).mean()))
    if value == 0:
        return sampling.estimate(0.0, torch.zeros_like(values))
    return sampling.estimate(value, sampling.weighted((squares - value**2) / (2 * value)))


def penalised_reward(log_policy: Tensor, log_target: Tensor, beta: float) -> Tensor:
    """`β(log P − log π)` `(N,)`: reward plus β(log π0 − log π) where the target is the posterior.

    It is constant, β log Z, exactly where π = p (Korbak et al. 2022, arXiv 2205.11275).
    """
    return beta * (log_target.double() - log_policy.double())


def _sequence(values: Tensor) -> Tensor:
    values = values.double()
    return values.sum(1) if values.dim() > 1 else values
