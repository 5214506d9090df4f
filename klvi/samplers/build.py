"""What an objective's rollouts are drawn from."""

from __future__ import annotations

from klvi.objectives.schema import GDCObjective
from klvi.objectives.schema import Objective as ObjectiveConfig
from klvi.samplers.adaptive import Adaptive
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.samplers.mixture import Mixture


def build_proposal(config: ObjectiveConfig, ancestral: Ancestral) -> Sampler:
    """What an objective's rollouts are drawn from."""
    if not isinstance(config, GDCObjective) or config.proposal == "policy":
        return ancestral
    if config.proposal == "adaptive":
        return Adaptive(ancestral, config.divergence)
    return Mixture(ancestral, config.prior_share)
