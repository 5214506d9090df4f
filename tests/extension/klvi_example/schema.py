"""The keys of what this package adds. Nothing here imports torch, for the sake of `--help`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from klvi.samplers.schema import ProposalSection, SamplerSection
from klvi.schema import Size, Source
from klvi.targets.schema import FINITE_POTENTIAL, TargetSection


class MeanTarget(TargetSection):
    """p ∝ π0·exp(tilt·r), the tilt such that r has a wanted mean under p."""

    builds = "klvi_example.mean:Mean.wanted"
    provides: ClassVar[frozenset[str]] = frozenset({FINITE_POTENTIAL})
    name: Literal["mean"]
    mean: float = 0.5
    """wanted mean of the reward"""
    texts: Source | None = None
    """file with a completion per line, whose mean reward is wanted in place of mean"""
    samples: Annotated[Size, Field(ge=2)] = 4096
    """samples of the prior that the tilt is fitted to"""


class MetropolisSampler(SamplerSection):
    """Independence Metropolis-Hastings: the policy proposes, the target accepts."""

    builds = "klvi_example.metropolis:Metropolis"
    name: Literal["metropolis"]
    chain: Size = 8
    """samples of a chain; chains are independent of each other"""


class BufferProposal(ProposalSection):
    """The policy, and completions of earlier rollouts, each weighed by what drew it."""

    builds = "klvi_example.buffer:Buffer"
    name: Literal["buffer"]
    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """of a rollout that is drawn from the buffer, as soon as that holds any"""
    size: Size = 1024
    """completions in the buffer; the oldest give way"""
