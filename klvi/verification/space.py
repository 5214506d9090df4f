"""Every sequence of an enumerable prior, with all that is to be said of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from klvi.metrics.exact import Enumeration, exact_metrics
from klvi.metrics.measurement import Unavailable
from klvi.targets.base import Target
from klvi.targets.posterior import Posterior
from klvi.training.enumeration import ExactEvaluator


@dataclass(frozen=True)
class Space:
    """All S sequences: `log_prior` and `reward` `(S,)`, float64, nats; `beta` of the posterior."""

    sequences: Enumeration
    log_prior: Tensor
    reward: Tensor
    beta: float

    @staticmethod
    def of(evaluator: ExactEvaluator) -> Space:
        """The space of a run's sequences, with the run's reward."""
        reward, _ = evaluator.log_target(0)
        return Space(evaluator.sequences, evaluator.log_prior, reward, evaluator.config.beta)

    def target(self, beta: float | None = None) -> Tensor:
        """`(S,)` log p of the posterior."""
        return self.normalised(self.log_prior + self.evidence(Posterior(beta or self.beta)))

    def evidence(self, target: Target, reward: Tensor | None = None) -> Tensor:
        """`(S,)` log P − log π0."""
        return target.log_evidence(self.reward if reward is None else reward)

    @staticmethod
    def normalised(log_score: Tensor) -> Tensor:
        """`(S,)` log-probabilities from unnormalised ones."""
        return log_score - log_score.logsumexp(0)

    def exact(
        self, log_policy: Tensor, target: Target | None = None, reward: Tensor | None = None
    ) -> dict[str, float]:
        """The exact metrics of a policy `(S,)`, those that are infinite left out."""
        reward = self.reward if reward is None else reward
        target = target or Posterior(self.beta)
        found = exact_metrics(
            self.sequences,
            log_policy,
            self.log_prior,
            self.log_prior + self.evidence(target, reward),
            reward,
            beta=target.beta,
            n=len(self.sequences),
        )
        return {n: v for n, v in found.items() if not isinstance(v, Unavailable)}
