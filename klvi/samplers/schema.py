"""What completions are drawn from: proposals while training, samplers at decoding time."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from klvi.schema import Choice

ON_POLICY = "samples of the policy itself"


class ProposalSection(Choice):
    """What training draws from."""

    group_name = "proposal"


class PolicyProposal(ProposalSection):
    """The policy as it is."""

    builds = "klvi.samplers.ancestral:Ancestral.itself"
    provides: ClassVar[frozenset[str]] = frozenset({ON_POLICY})
    name: Literal["policy"]


class AdaptiveProposal(ProposalSection):
    """An earlier policy, renewed whenever the present one is nearer to the target."""

    builds = "klvi.samplers.adaptive:Adaptive"
    name: Literal["adaptive"]
    divergence: Literal["kl", "tv"] = "kl"
    """by which it is decided what is nearer"""


class MixtureProposal(ProposalSection):
    """The policy and the prior, each sample weighed by both."""

    builds = "klvi.samplers.mixture:Mixture"
    name: Literal["mixture"]
    prior_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """of the samples that come from the prior"""


class SamplerSection(Choice):
    """INFERENCE at decoding time."""

    group_name = "sampler"


class AncestralSampler(SamplerSection):
    """The model's own samples, token by token."""

    builds = "klvi.samplers.ancestral:Ancestral.itself"
    name: Literal["ancestral"]
