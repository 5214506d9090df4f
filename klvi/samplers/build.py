"""A proposal or a sampler from its section."""

from __future__ import annotations

from klvi.registry import build
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.samplers.schema import ProposalSection, SamplerSection


def build_sampler(section: ProposalSection | SamplerSection, ancestral: Ancestral) -> Sampler:
    """What a section describes, on `ancestral` sampling of the policy."""
    sampler: Sampler = build(section, ancestral=ancestral)
    return sampler
