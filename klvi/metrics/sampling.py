"""How samples were drawn: what each weighs, and which depend on each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from klvi.metrics.intervals import Estimate, estimate
from klvi.samples import Samples


@dataclass(frozen=True)
class Sampling:
    """The design of N samples, on the CPU.

    Attributes:
        weight: `(N,)` float64 with mean 1, towards what the samples represent; None where equal.
        units: `(N,)` the independent unit of each sample, from 0: a replicate of a context. None
            where each sample is its own.
    """

    weight: Tensor | None = None
    units: Tensor | None = None

    @staticmethod
    def of(samples: Samples) -> Sampling:
        """That of samples; equal weights and replicates of one sample each are left out."""
        weight = units = None
        log_weight = samples.log_weight
        if log_weight is not None and not bool((log_weight == log_weight[0]).all()):
            weight = log_weight.cpu().double().softmax(0) * len(samples)
        if samples.replicate is not None:
            pairs = torch.stack([samples.context, samples.replicate.cpu()], 1)
            found, place = pairs.unique(dim=0, return_inverse=True)
            units = None if len(found) == len(samples) else place
        return Sampling(weight, units)

    @property
    def independent(self) -> bool:
        """Whether each sample is its own, and all weigh the same."""
        return self.weight is None and self.units is None

    def count(self, n: int) -> int:
        """How many independent units `n` samples have."""
        return n if self.units is None else int(self.units.max()) + 1

    def size(self, n: int) -> float:
        """How many independent, equally weighted samples `n` are worth (Kish 1965)."""
        if self.independent:
            return float(n)
        total = torch.ones(n).double() if self.weight is None else self.weight
        if self.units is not None:
            total = torch.zeros(self.count(n)).double().index_add_(0, self.units, total)
        return float(total.sum().square() / total.square().sum())

    def weighted(self, values: Tensor) -> Tensor:
        """`(N,)` values times weights, with 0·∞ = 0."""
        if self.weight is None:
            return values
        return torch.where(self.weight > 0, self.weight * values, 0.0)

    def estimate(self, value: float, influence: Tensor) -> Estimate:
        """The estimate `value` whose error is, to first order, the mean of `influence` `(N,)`."""
        found = estimate(value, influence, units=self.units)
        return found if self.independent else replace(found, units=self.size(len(influence)))


INDEPENDENT = Sampling()
