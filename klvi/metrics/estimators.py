"""Estimators from samples of the policy alone: means, and means with a control variate.

All take float tensors over independent samples of one context and reduce in float64.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from klvi.metrics.intervals import Estimate, centre, estimate


def mean(values: Tensor, control: Tensor | None = None) -> Estimate:
    """The mean of `values` `(N,)`, less the optimal multiple of `control` `(N,)`, whose mean is 0.

    `values − c·control` has the variance of `values` or less (Amini et al. 2025, arXiv 2504.10637).
    """
    return ratio(values, torch.ones_like(values), control)


def bounded_mean(values: Tensor) -> Estimate:
    """The mean of a bounded variable `(N,)`, for the score interval.

    That interval's variance follows from the mean, so it has N − 1 degrees of freedom however few
    samples differ from the others.
    """
    return replace(mean(values), degrees=float(len(values) - 1), skewness=0.0)


def ratio(
    numerator: Tensor,
    denominator: Tensor,
    control: Tensor | None = None,
) -> Estimate:
    """`E[numerator]/E[denominator]`, `(N,)` each, by the delta method; `control` as in `mean`."""
    top, bottom = numerator.double(), denominator.double()
    value = float(top.mean() / bottom.mean())
    influence = (top - value * bottom) / bottom.mean()
    if control is None:
        return estimate(value, influence)
    zero = control.double()
    deviations, _ = centre(zero)
    spread = float(deviations.square().sum())
    factor = float((deviations * influence).sum()) / spread if spread > 0 else 0.0
    return estimate(value - factor * float(zero.mean()), influence - factor * zero)


def kl_k1(log_policy: Tensor, log_prior: Tensor) -> Tensor:
    """`log π − log π0` `(N,)` per sequence from `(N, T)` or `(N,)`; its mean is KL(π‖π0)."""
    return _sequence(log_policy) - _sequence(log_prior)


def kl_k3(log_policy: Tensor, log_prior: Tensor) -> Tensor:
    """`e^{−u} − 1 + u` `(N,)` with `u = log π − log π0` per sequence; its mean is KL(π‖π0).

    Non-negative, but heavy-tailed: it looks stable because it misses rare events.
    """
    u = kl_k1(log_policy, log_prior)
    return torch.expm1(-u) + u


def kl_prior(log_policy: Tensor, log_prior: Tensor, kl: Tensor | None) -> Estimate:
    """`KL(π‖π0)`, nats per sequence, from `(N, T)` tensors.

    `kl` holds the exact KL of the next-token distributions at each sampled prefix; its sum over T
    is the Rao-Blackwellised estimate, and k1's difference from it the control variate.
    """
    k1 = kl_k1(log_policy, log_prior)
    found = mean(k1, None if kl is None else k1 - _sequence(kl))
    return replace(found, value=max(found.value, 0.0))


def entropy(log_policy: Tensor, entropy: Tensor | None) -> Estimate:
    """Entropy of the policy, nats per sequence; `entropy` `(N, T)` is that of the next token."""
    surprisal = -_sequence(log_policy)
    return mean(surprisal, None if entropy is None else surprisal - _sequence(entropy))


def entropy_token(log_policy: Tensor, lengths: Tensor, entropy: Tensor | None) -> Estimate:
    """Entropy per sequence over the mean length, nats per token."""
    surprisal = -_sequence(log_policy)
    control = None if entropy is None else surprisal - _sequence(entropy)
    return ratio(surprisal, lengths, control)


def log_perplexity(log_prior: Tensor, lengths: Tensor) -> Estimate:
    """`−Σ log π0 / Σ length` of the samples, nats per token: the perplexity's logarithm."""
    return ratio(-_sequence(log_prior), lengths)


def elbo(log_policy: Tensor, log_target: Tensor) -> Estimate:
    """`E_π[log P − log π]`, nats per sequence, from the policy's samples alone `(N,)`."""
    return mean(log_target.double() - log_policy.double())


def standard_deviation(values: Tensor) -> Estimate:
    """Standard deviation of `values` `(N,)`."""
    values = values.double()
    deviations, sizes = centre(values)
    squares = deviations.square() * sizes / (sizes - 1)
    value = math.sqrt(float(squares.mean()))
    if value == 0:
        return estimate(0.0, torch.zeros_like(values))
    return estimate(value, (squares - value**2) / (2 * value))


def penalised_reward(log_policy: Tensor, log_target: Tensor, beta: float) -> Tensor:
    """`β(log P − log π)` `(N,)`: reward plus β(log π0 − log π) where the target is the posterior.

    It is constant, β log Z, exactly where π = p (Korbak et al. 2022, arXiv 2205.11275).
    """
    return beta * (log_target.double() - log_policy.double())


def _sequence(values: Tensor) -> Tensor:
    values = values.double()
    return values.sum(1) if values.dim() > 1 else values
