"""Importance sampling of a target from a policy and its prior at once.

Sequences are drawn from the policy π and from the prior π0, and weighted as if all of them came
from the mixture `q = (N1·π + N0·π0)/(N1 + N0)` (the balance heuristic: Veach and Guibas 1995;
deterministic mixtures: Owen and Zhou 2000, *Safe and effective importance sampling*). The weight
`P/q` is bounded where either component covers the target: the prior does for a policy that has
collapsed, the policy does once it is near a rare target. As `E_q[π/q] = 1` is known, it serves as a
control variate: each sample's share `1/N` is corrected by regression such that `π/q` averages to 1
exactly (or, where that regression is unstable, `π/q` is divided by its mean). Both KLs to the
target are then non-negative by construction and vanish, with their intervals, at π = p.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from klvi.metrics.intervals import Estimate, centre, estimate

MIN_SPREAD = 1e-4
CONTROL_DEGREES = 30


class LogProbabilities(NamedTuple):
    """Log-probabilities of sequences, `(N,)` each, nats per sequence; `target` is unnormalised.

    `drawn` is by how much the density of what drew each lies above that of the policy or prior
    that it stands for: a decoder's weights may be rounded, or a proposal have drawn it. None where
    they are the same. `units` `(N,)` is the independent unit of each, from 0; None where each is
    its own. `scores` are those of the sequences, `(N,)` each, by name.
    """

    policy: Tensor
    prior: Tensor
    target: Tensor
    drawn: Tensor | None = None
    units: Tensor | None = None
    scores: Mapping[str, Tensor] = {}

    def select(self, rows: Tensor) -> LogProbabilities:
        """Those at `rows` `(n,)`."""
        units = None if self.units is None else self.units[rows].unique(return_inverse=True)[1]
        return LogProbabilities(
            self.policy[rows],
            self.prior[rows],
            self.target[rows],
            None if self.drawn is None else self.drawn[rows],
            units,
            {name: values[rows] for name, values in self.scores.items()},
        )

    @property
    def size(self) -> int:
        """How many independent units there are."""
        return len(self.policy) if self.units is None else int(self.units.max()) + 1


# A value, and the influence of each sample `(N,)` on it.
Linear = tuple[float, Tensor]


@dataclass(frozen=True)
class Mixture:
    """Weighted samples of the mixture of policy and prior; all tensors `(N1 + N0,)`, float64.

    Attributes:
        log_policy: log π(x), nats per sequence.
        log_target: log P(x), unnormalised; -inf where the target excludes x.
        log_potential: log P(x) − log π0(x).
        share: each sample's share in a mean under the mixture; sums to 1.
        policy_ratio: π(x)/q(x), scaled to a mean of exactly 1 under the mixture.
        log_scale: logarithm of what π(x)/q(x) averaged to before; 0 where shares are calibrated.
        log_weight: log P(x)/q(x).
        log_prior_weight: log π0(x)/q(x).
        strata: 0 for the policy's samples, 1 for the prior's.
        units: the independent unit of each sample, from 0; None where each is its own.
        log_z: logarithm of the estimate of Z; -inf where no sample has a weight.
        scores: `(N1 + N0,)` each, by name.
        tilt: nats per unit of gold at which gold's own posterior is as far from the prior as the
            target: see `klvi.metrics.split`.
    """

    log_policy: Tensor
    log_target: Tensor
    log_potential: Tensor
    share: Tensor
    policy_ratio: Tensor
    log_scale: float
    log_weight: Tensor
    log_prior_weight: Tensor
    strata: Tensor
    units: Tensor | None
    log_z: float
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    tilt: float = 0.0

    @property
    def target_ratio(self) -> Tensor:
        """`(N,)` p(x)/q(x), with the estimated Z."""
        return (self.log_weight - self.log_z).exp()

    def mean(self, values: Tensor) -> float:
        """The mean of `values` `(N,)` under the mixture."""
        return float((self.share * values).sum())

    def estimate(self, value: float, influence: Tensor) -> Estimate:
        """The estimate `value` with `influence` `(N,)`, less what the control variate explains."""
        control = _control(self.policy_ratio, self.strata, self.units)
        if control is not None:
            factor = float((control * influence).sum() / control.square().sum())
            influence = influence - factor * self.policy_ratio
        return estimate(value, influence, self.strata, self.units)


def mixture(policy: LogProbabilities, prior: LogProbabilities | None = None) -> Mixture:
    """Weighted samples, made of those drawn from the policy and those drawn from the prior.

    Without the latter the proposal is the policy alone and there is no control variate.
    """
    sets = [policy] if prior is None or len(prior.policy) == 0 else [policy, prior]
    sizes = [len(part.policy) for part in sets]
    log_policy = torch.cat([part.policy.double() for part in sets])
    log_prior = torch.cat([part.prior.double() for part in sets])
    log_target = torch.cat([part.target.double() for part in sets])
    log_proposal = log_policy
    if len(sets) > 1:
        shares = [math.log(size / sum(sizes)) for size in sizes]
        log_proposal = torch.logaddexp(log_policy + shares[0], log_prior + shares[1])
    # The balance heuristic's shares are those of the densities that are scored, which every sample
    # has; each sample is divided by the density of what drew it. Shares that sum to 1 at every x
    # keep the estimates unbiased, whatever they are (Veach and Guibas 1995).
    log_proposal = log_proposal + torch.cat(
        [torch.zeros_like(p.policy) if p.drawn is None else p.drawn for p in sets]
    )
    strata = torch.repeat_interleave(torch.arange(len(sets)), torch.tensor(sizes))
    units = _numbered(sets)
    policy_ratio = (log_policy - log_proposal).exp()
    log_weight = log_target - log_proposal
    share = _calibrated_shares(policy_ratio, strata, units)
    scale = (share * policy_ratio).sum()
    policy_ratio = policy_ratio / scale
    return Mixture(
        log_policy=log_policy,
        log_target=log_target,
        log_potential=log_target - log_prior,
        share=share,
        policy_ratio=policy_ratio,
        log_scale=float(scale.log()),
        log_weight=log_weight,
        log_prior_weight=log_prior - log_proposal,
        strata=strata,
        units=units,
        log_z=float(torch.logsumexp(log_weight + share.log(), 0)),
        scores={
            name: torch.cat([part.scores[name].double() for part in sets])
            for name in sets[0].scores
            if all(name in part.scores for part in sets)
        },
    )


def _numbered(sets: Sequence[LogProbabilities]) -> Tensor | None:
    """`(N,)` the unit of each sample of all sets, numbered on from set to set."""
    if all(part.units is None for part in sets):
        return None
    found, first = [], 0
    for part in sets:
        found.append(first + (torch.arange(part.size) if part.units is None else part.units))
        first += part.size
    return torch.cat(found)


def _calibrated_shares(ratio: Tensor, strata: Tensor, units: Tensor | None) -> Tensor:
    """Shares `(N,)` that sum to 1, under which `ratio` averages to 1 (regression estimator)."""
    share = torch.full_like(ratio, 1 / len(ratio))
    control = _control(ratio, strata, units)
    if control is None:
        return share
    share = (share - (ratio.mean() - 1) * control / control.square().sum()).clamp_min(0.0)
    return share / share.sum()


def _control(ratio: Tensor, strata: Tensor, units: Tensor | None) -> Tensor | None:
    """The control variate `(N,)`, π/q within strata; None where a regression on it is unstable.

    That is where it varies by rounding alone, and where a few samples carry its variance.
    """
    found = estimate(1.0, ratio, strata, units)
    if found.error * math.sqrt(len(ratio)) < MIN_SPREAD or found.degrees < CONTROL_DEGREES:
        return None
    return centre(ratio, strata)[0]


def effective_sample_size(mix: Mixture) -> Estimate:
    """`(Σw)²/Σw²` of the weights P/q, in samples (Kong 1992)."""
    n = len(mix.log_weight)
    if mix.log_z == -math.inf:
        return Estimate(0.0, 0.0, n, float(n - 1))
    weight = (mix.log_weight - mix.log_weight.max()).exp()
    first, second = weight.mean(), weight.square().mean()
    value = n * float(first.square() / second)
    influence = value * (2 * (weight / first - 1) - (weight.square() / second - 1))
    return estimate(value, influence, mix.strata, mix.units)


def log_z(mix: Mixture) -> Estimate:
    """`log Z`, `Z = Σ P(x)`, nats."""
    return mix.estimate(mix.log_z, mix.target_ratio - 1)


def target_expectation(mix: Mixture, values: Tensor) -> Estimate:
    """`E_p[f]` of `values` `(N,)`, self-normalised; values outside p's support are idle."""
    return mix.estimate(*expectation(mix, mix.target_ratio, values))


def policy_expectation(mix: Mixture, values: Tensor) -> Estimate:
    """`E_π[f]` of `values` `(N,)` under the policy."""
    return mix.estimate(*expectation(mix, mix.policy_ratio, values))


def expectation(mix: Mixture, ratio: Tensor, values: Tensor) -> Linear:
    """The mean of `ratio·values` `(N,)`; `ratio` has a mean of 1, to within rounding.

    Values are taken from one of them: what is common to all, a large log Z, is not to be multiplied
    by the rounding of that 1.
    """
    common = float(values[ratio.argmax()])
    values = torch.where(ratio > 0, values.double() - common, 0.0)
    value = mix.mean(ratio * values)
    return common + value, ratio * (values - value)


def target_score(mix: Mixture, name: str) -> Estimate:
    """`E_p` of a score, worth as many samples as the weights are."""
    found = target_expectation(mix, mix.scores[name])
    return replace(found, units=min(effective_sample_size(mix).value, found.size))


def target_kl_prior(mix: Mixture) -> Estimate:
    """`KL(p‖π0) = E_p[log P − log π0] − log Z`, nats per sequence."""
    return mix.estimate(*target_kl(mix))


def target_kl(mix: Mixture) -> Linear:
    """`KL(p‖π0)`, nats per sequence, and its influence."""
    value, influence = expectation(mix, mix.target_ratio, mix.log_potential)
    return value - mix.log_z, influence - (mix.target_ratio - 1)


def target_entropy(mix: Mixture) -> Estimate:
    """`−E_p[log p] = log Z − E_p[log P]`, nats per sequence."""
    value, influence = expectation(mix, mix.target_ratio, mix.log_target)
    return mix.estimate(mix.log_z - value, (mix.target_ratio - 1) - influence)


def log_chi2(mix: Mixture) -> Estimate:
    """`log(1 + χ²(p‖π0)) = log E_p[p/π0]`, nats: the limit of log n/ESS of n prior samples.

    Agapiou et al. 2017, arXiv 1511.06196, section 2.
    """
    ratio = mix.target_ratio
    log_moment = float(torch.logsumexp(ratio.log() + mix.share.log() + mix.log_potential, 0))
    moment = torch.where(ratio > 0, ratio * (mix.log_potential - log_moment).exp(), 0.0)
    return mix.estimate(log_moment - mix.log_z, (moment - ratio) - (ratio - 1))


def log_z_upper(mix: Mixture) -> Estimate:
    """`E_p[log P − log π] = log Z + KL(p‖π)`, nats: the sandwich's upper side (theory section 5).

    With a hard constraint the prior's samples that meet it are exact samples of the target
    (rejection), and carry equal weights here for as long as the policy gives them little.
    """
    return target_expectation(mix, mix.log_target - mix.log_policy)


def log_z_lower(mix: Mixture) -> Estimate:
    """`E_π[log P − log π] = log Z − KL(π‖p)`, nats: the evidence lower bound."""
    return policy_expectation(mix, mix.log_target - mix.log_policy)


def kl_forward(mix: Mixture) -> Estimate:
    """`KL(p‖π)`, nats per sequence (Khalifa et al. 2021, arXiv 2012.11635).

    Both densities are scaled to a mean of exactly 1 under the mixture, so that it is not negative.
    """
    ratio, policy_ratio = mix.target_ratio, mix.policy_ratio
    log_ratio = mix.log_target - mix.log_z - mix.log_policy + mix.log_scale
    values = torch.where(ratio > 0, log_ratio, 0.0)
    mean = mix.mean(ratio * values)
    return mix.estimate(mean, ratio * (values - mean) - (ratio - 1) + (policy_ratio - 1))


def kl_reverse(mix: Mixture) -> Estimate:
    """`KL(π‖p)`, nats per sequence; every sample must have a positive target probability."""
    ratio, target_ratio = mix.policy_ratio, mix.target_ratio
    log_ratio = mix.log_policy - mix.log_scale - (mix.log_target - mix.log_z)
    values = torch.where(ratio > 0, log_ratio, 0.0)
    mean = mix.mean(ratio * values)
    return mix.estimate(mean, ratio * (values - mean) + (target_ratio - 1) - (ratio - 1))


def total_variation(mix: Mixture) -> Estimate:
    """`TV(π, p) = ½ Σ |π − p|`, between 0 and 1."""
    policy, target = mix.policy_ratio, mix.target_ratio
    gap, sign = 0.5 * (policy - target).abs(), 0.5 * (policy - target).sign()
    value = mix.mean(gap)
    influence = gap - value - mix.mean(sign * policy) * (policy - 1)
    return mix.estimate(value, influence + mix.mean(sign * target) * (target - 1))
