"""What a target is."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from klvi.samples import Samples


class Target(Protocol):
    """An unnormalised distribution P(x) = π0(x)·evidence(x), with Z = Σ P and p = P/Z.

    `beta` is the temperature at which `objective=kl` and the ELBO weigh reward against KL.
    """

    name: ClassVar[str]
    beta: float

    def log_evidence(self, reward: Tensor) -> Tensor:
        """log P − log π0 of completions with `reward` `(N,)`: `(N,)`, nats, −inf outside of p."""
        ...

    def log_score(self, samples: Samples, share: float = 1.0) -> Tensor:
        """log π0 + share·log evidence of scored samples: `(N,)`, nats per sequence.

        With a share of 1 this is log P, −inf outside of p. Smaller shares lie on the path from the
        prior to p that annealed importance sampling takes (Neal 2001, arXiv physics/9803008).
        """
        return samples.log_prior_sequence + share * self.log_evidence(samples.reward)
