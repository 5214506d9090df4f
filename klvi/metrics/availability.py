"""Which needs of metrics are not met, and why: the one place that refuses a metric."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from klvi.metrics.measurement import Unavailable
from klvi.metrics.metric import MetricSpec, missing_score, no_score
from klvi.metrics.sampling import Sampling
from klvi.samples import Draw

# The reason for each need that is not met; of several, the first is given.
Lacking = dict[str, Unavailable]


def refusal(spec: MetricSpec, lacking: Mapping[str, Unavailable], draw: Draw) -> Unavailable | None:
    """Why a metric has no estimate here; None where all that it needs is known."""
    found = next((why for need, why in lacking.items() if need in spec.needs), None)
    if found is not None:
        return found
    missing = missing_score(spec, draw.samples.scores)
    return None if missing is None else Unavailable(no_score(missing))


def lacking_in(
    draw: Draw, log_target: Tensor, prior_log_target: Tensor | None, sampler: str
) -> Lacking:
    """What a draw does not give, whatever its importance weights are.

    Args:
        draw: scored samples.
        log_target: `(N,)` log P of them.
        prior_log_target: `(N0,)` log P of samples of the prior, where there are any.
        sampler: the name of what drew them.
    """
    sampling = Sampling.of(draw.samples)
    counted = log_target if sampling.weight is None else log_target[sampling.weight > 0]
    # Where the prior goes, the policy can go; a sampler need not.
    of_prior = prior_log_target if draw.represents == "policy" else None
    weights = "these have unequal weights, and it is a count over a set of samples"
    found = {
        "support": violations(counted, of_prior),
        "density": _without_density(draw, sampling, sampler),
        "proposal": _without_proposal(draw, sampling, sampler),
        "equal weights": None if sampling.weight is None else Unavailable(weights),
    }
    return {need: why for need, why in found.items() if why is not None}


def _without_density(draw: Draw, sampling: Sampling, sampler: str) -> Unavailable | None:
    if draw.represents == "policy":
        return None
    if draw.samples.log_density is None:
        return Unavailable(f"{sampler} has no log_density of its samples in closed form")
    if sampling.weight is not None:
        return Unavailable(
            f"{sampler} weighs its samples, whose log_density is then known up to a constant alone"
        )
    return None


def _without_proposal(draw: Draw, sampling: Sampling, sampler: str) -> Unavailable | None:
    if sampling.weight is None or draw.samples.log_density is not None:
        return None
    return Unavailable(f"{sampler} weighs its samples and has no log_density of what drew them")


def violations(log_target: Tensor, prior_log_target: Tensor | None) -> Unavailable | None:
    """Why the KL to the target is infinite: what is measured reaches what the target excludes.

    Args:
        log_target: `(N,)` of its samples, −inf outside of the target's support.
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
