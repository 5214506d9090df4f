"""What a target is."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from klvi.errors import UserError
from klvi.samples import Samples


class Target(Protocol):
    """An unnormalised distribution P(x) = π0(x)·evidence(x), with Z = Σ P and p = P/Z.

    `beta` is the temperature at which `objective=kl` and the ELBO weigh reward against KL.
    """

    name: ClassVar[str]
    beta: float

    def log_evidence(self, reward: Tensor) -> Tensor:
        """log P − log π0 of completions with `reward` `(N,)`: `(N,)`, nats, −inf outside of p.

        Float64, whatever the reward's type. Raises UserError where that resolves no differences.
        """
        ...

    def log_score(self, samples: Samples, share: float = 1.0) -> Tensor:
        """log π0 + share·log evidence of scored samples: `(N,)`, nats per sequence, float64.

        With a share of 1 this is log P, −inf outside of p. Smaller shares lie on the path from the
        prior to p that annealed importance sampling takes (Neal 2001, arXiv physics/9803008).
        """
        return samples.log_prior_sequence + share * self.log_evidence(samples.reward)


# Rounding of a potential above which differences between sequences are no longer resolved, nats.
COARSEST = 1e-3


def resolved(evidence: Tensor, what: str) -> Tensor:
    """The potentials `(N,)`, nats, where float64 resolves their differences.

    Raises UserError, naming `what` they are made of, for those that overflow, and those so large
    that log π0 is lost in their rounding.
    """
    largest = float(evidence.abs().max()) if len(evidence) else 0.0
    if largest * torch.finfo(torch.float64).eps <= COARSEST:
        return evidence
    raise UserError(
        f"{what}: log P reaches {largest:.3g} nats, of which 64-bit numbers resolve no difference "
        "of a nat between sequences; scale the reward down, or choose another beta"
    )
