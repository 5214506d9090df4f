"""Every sequence of an enumerable prior, with all that is to be said of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from klvi.evaluation.enumeration import ExactEvaluator
from klvi.metrics.enumeration import Enumeration
from klvi.metrics.exact import exact_metrics
from klvi.metrics.measurement import Unavailable
from klvi.samples import Samples
from klvi.targets.base import Target
from klvi.targets.posterior import Posterior


@dataclass(frozen=True)
class Space:
    """All S sequences of a run's prior, scored; `beta` is that of its posterior."""

    sequences: Enumeration
    samples: Samples
    target: Posterior

    @staticmethod
    def of(evaluator: ExactEvaluator) -> Space:
        """The space of a run's sequences, with the run's reward."""
        sequences, target = evaluator.sequences, evaluator.target
        assert isinstance(target, Posterior), "verify takes posteriors alone"
        first = evaluator.scored(0).select(torch.arange(len(sequences)))
        return Space(sequences, first, target)

    @property
    def beta(self) -> float:
        """The posterior's temperature."""
        return self.target.beta

    @property
    def reward(self) -> Tensor:
        """`(S,)`, float64."""
        return self.samples.reward

    @property
    def log_prior(self) -> Tensor:
        """`(S,)` log π0(x), nats per sequence, float64."""
        return self.samples.log_prior_sequence

    def rewarded(self, reward: Tensor) -> Space:
        """The same sequences with other rewards `(S,)`."""
        return replace(self, samples=self.samples.with_scores({"reward": reward}))

    def at(self, beta: float) -> Space:
        """The same sequences with another temperature."""
        return replace(self, target=replace(self.target, beta=beta))

    def log_posterior(self) -> Tensor:
        """`(S,)` log p, nats per sequence."""
        return self.normalised(self.target.log_unnormalised(self.samples))

    @staticmethod
    def normalised(log_unnormalised: Tensor) -> Tensor:
        """`(S,)` log-probabilities from unnormalised ones."""
        return log_unnormalised - log_unnormalised.logsumexp(0)

    def exact(self, log_policy: Tensor, target: Target | None = None) -> dict[str, float]:
        """The exact metrics of a policy `(S,)`, those that are infinite left out."""
        target = target or self.target
        found = exact_metrics(
            self.sequences,
            log_policy,
            self.log_prior,
            target.log_unnormalised(self.samples),
            {"reward": self.reward},
            beta=target.beta,
            n=len(self.sequences),
        )
        return {n: v for n, v in found.items() if not isinstance(v, Unavailable)}
