"""What falls short: the target, or the policy that approximates it.

`gold` is a score that is measured and never aimed at. Of all distributions as far from the prior as
the target, κ = KL(p‖π0), the one with the most gold is gold's own posterior, p_s ∝ π0·exp(s·gold)
with KL(p_s‖π0) = κ, and reaches g*. A policy's shortfall is then two:

    g* − E_π[gold] = (g* − E_p[gold]) + (E_p[gold] − E_π[gold])
                      misspecified       badly approximated

With several contexts, κ and g* are means over them, and s is common to all. By duality g* is
min_s (mean_c log Z_c(s) + κ)/s (Donsker and Varadhan 1975), so that an error in s is of second
order, and g* is, at its s, the mean over contexts of (log Z_c(s) + κ_c)/s.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from klvi.metrics.enumeration import Listed
from klvi.metrics.importance import Linear, Mixture, expectation, target_kl
from klvi.metrics.intervals import Estimate, interval, with_room
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.metrics.metric import Scope
from klvi.metrics.target import Weighing
from klvi.metrics.tilting import tilt_within_kl, tilted

GOLD = "gold"


def best_tilt(weighing: Weighing, floor: float) -> float | Unavailable:
    """The s of gold's own posterior at the target's KL, or why its weights cannot be trusted."""
    mixtures = weighing.mixtures
    # Of weights that sum to 1, as those of `tilted` do.
    kls = [target_kl(mix)[0] + math.log(mix.mean(mix.log_prior_weight.exp())) for mix in mixtures]
    kl = sum(share * kl for share, kl in zip(weighing.weights, kls, strict=True))
    score = torch.cat([mix.scores[GOLD] for mix in mixtures])
    log_weight = torch.cat([mix.share.log() + mix.log_prior_weight for mix in mixtures])
    sizes = torch.tensor([len(mix.share) for mix in mixtures])
    context = torch.arange(len(mixtures)).repeat_interleave(sizes)
    s = tilt_within_kl(score, log_weight, context, kl)
    effective = tilted(score, log_weight, context, s).effective
    if effective >= floor:
        return s
    return Unavailable(
        f"the most gold at KL(p‖π0) = {kl:.3g} would be read off {effective:.1f} effective "
        f"samples, fewer than the floor of {floor:g}"
    )


def gold_best(mix: Mixture) -> Estimate:
    """g*, the most gold that any distribution at KL(p‖π0) reaches."""
    return mix.estimate(*_best(mix))


def misspecified(mix: Mixture) -> Estimate:
    """g* − E_p[gold]: the target's part of the shortfall, not negative."""
    best, of_best = _best(mix)
    target, of_target = expectation(mix, mix.target_ratio, mix.scores[GOLD])
    return mix.estimate(best - target, of_best - of_target)


def badly_approximated(mix: Mixture) -> Estimate:
    """E_p[gold] − E_π[gold]: the policy's part; negative where it has more gold than its target."""
    target, of_target = expectation(mix, mix.target_ratio, mix.scores[GOLD])
    policy, of_policy = expectation(mix, mix.policy_ratio, mix.scores[GOLD])
    return mix.estimate(target - policy, of_target - of_policy)


def _best(mix: Mixture) -> Linear:
    """(log Z(s) + κ)/s of one context, and its influence; at s = 0 E_π0[gold]."""
    gold, prior = mix.scores[GOLD], mix.log_prior_weight.exp()
    if mix.tilt == 0:
        return expectation(mix, prior / mix.mean(prior), gold)
    top = float(gold[mix.share * prior > 0].max())
    likelihood = prior * (mix.tilt * (gold - top)).exp()
    evidence = mix.mean(likelihood)
    kl, of_kl = target_kl(mix)
    influence = likelihood / evidence - 1 + of_kl
    return top + (math.log(evidence) + kl) / mix.tilt, influence / mix.tilt


def exact_gold_best(listed: Listed) -> float:
    """g* of one context, at the `tilt` of all."""
    gold = listed.scores[GOLD]
    if listed.tilt == 0:
        return float(listed.log_prior.exp() @ gold)
    kl = listed.target_mean(listed.log_density - listed.log_prior)
    log_z = float(torch.logsumexp(listed.log_prior + listed.tilt * (gold - gold.max()), 0))
    return float(gold.max()) + (log_z + kl) / listed.tilt


def exact_misspecified(listed: Listed) -> float:
    """g* − E_p[gold]."""
    return exact_gold_best(listed) - float(listed.target @ listed.scores[GOLD])


def exact_badly_approximated(listed: Listed) -> float:
    """E_p[gold] − E_π[gold]."""
    return float((listed.target - listed.policy) @ listed.scores[GOLD])


def gold_interval(found: Estimate, scope: Scope) -> Measurement:
    """Of a difference in gold."""
    return interval(_with_room(found, scope), scope.confidence)


def misspecified_interval(found: Estimate, scope: Scope) -> Measurement:
    """Of a difference in gold that is not negative."""
    return interval(_with_room(found, scope), scope.confidence, 0.0)


def _with_room(found: Estimate, scope: Scope) -> Estimate:
    """With room for samples, of all contexts, that may have missed gold at the end of its range."""
    low, high = scope.ranges[GOLD]
    return with_room(replace(found, units=None), high - low)
