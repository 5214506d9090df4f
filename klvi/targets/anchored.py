"""All that is good enough, each as likely as the best of it that the prior gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from klvi.errors import UserError
from klvi.metrics.base_rate import base_rate_bound
from klvi.metrics.measurement import Measurement, Metric
from klvi.rewards.base import Reward
from klvi.rewards.python import as_reward
from klvi.samples import Samples
from klvi.schema import check_fields
from klvi.targets.base import Target, checked_beta, resolved
from klvi.targets.schema import AnchoredTarget


@dataclass(frozen=True)
class Anchored(Target):
    """p uniform on G = {r ≥ τ}, of which the anchor keeps its mass under the posterior.

    Mode-anchored reward augmentation (GX-Chen et al. 2025, arXiv 2510.20817): on G the reward is
    r(z) + β(log π0(z) − log π0(x)), z the anchor, so that log P(x) = a_c = r(z)/β + log π0(z)
    there and log π0 + r/β elsewhere. The paper takes z in each batch, which moves the target; here
    a_c is a scalar of each prompt, of the likeliest x in G among samples of the prior, fitted once
    before update 0. p(G) = m/(m + Σ_{r<τ} π0·exp(r/β)), m = |G|·exp(a_c).

    Of two texts in G the posterior keeps the prior's odds at every β, and so does forward_kl; here
    they are 1. p is then mostly on texts that the prior hardly ever gives, and E_π0[w²; G] =
    exp(2a_c)·Σ_G 1/π0(x): weights of the prior's samples alone fail, those of a policy that was
    trained towards p need not.
    """

    name: ClassVar[str] = "anchored"
    reward: Reward
    threshold: float = 0.5
    fit_samples: int = 4096
    beta: float = 0.1
    anchors: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_beta(self.beta))
        check_fields(AnchoredTarget, self)
        object.__setattr__(self, "reward", as_reward(self.reward))

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """The reward alone."""
        return {"reward": self.reward}

    def samples_to_fit(self, update: int, updates: int = 1) -> int:
        """`fit_samples` of the prior before update 0, in all; none later."""
        return self.fit_samples if update == 0 else 0

    def fitted(self, samples: Samples) -> Anchored:
        """With a_c of each prompt; raises UserError where a prompt has no sample in G."""
        scores, log_prior = self._posterior(samples), samples.log_prior_sequence
        anchors: dict[int, float] = {}
        for row in samples.context.unique().tolist():
            own = (samples.context == row).to(log_prior.device)
            inside = (own & (samples.reward >= self.threshold)).nonzero()[:, 0]
            if not len(inside):
                raise UserError(self._unmet(samples, own))
            z = inside[log_prior[inside].argmax()]
            anchors[row] = float(scores[z] + log_prior[z])
        return replace(self, anchors=anchors)

    def _unmet(self, samples: Samples, own: Tensor) -> str:
        count, first = int(own.sum()), int(own.nonzero()[0, 0])
        highest = float(samples.reward[own].max())
        context = samples.contexts[first]
        place = f" of {context.title}" if context.row or context.prompt else ""
        return (
            f"target.threshold={self.threshold:g}: none of {count} samples of the prior{place} "
            f"reaches it (the highest reward is {highest:g}), so that there is no anchor: its base "
            f"rate is below {base_rate_bound(count):.2g} (95% bound); lower it, or raise "
            "target.fit_samples"
        )

    def log_potential(self, samples: Samples) -> Tensor:
        """a_c − log π0(x) on G, r/β elsewhere: `(N,)`, nats.

        Raises UserError for a prompt that has no anchor.
        """
        missing = [context for context in samples.contexts if context.row not in self.anchors]
        if missing:
            raise UserError(
                f"target={self.name}: {missing[0].title} has no anchor: raise target.fit_samples="
                f"{self.fit_samples} until each prompt has some of them"
            )
        anchors = [self.anchors[row] for row in samples.context.tolist()]
        log_prior = samples.log_prior_sequence
        anchored = torch.tensor(anchors, dtype=torch.float64, device=log_prior.device) - log_prior
        return torch.where(samples.reward >= self.threshold, anchored, self._posterior(samples))

    def _posterior(self, samples: Samples) -> Tensor:
        """`(N,)` r/β."""
        reward = samples.reward.double()
        size = float(reward.abs().max()) if len(reward) else 0.0
        return resolved(reward / self.beta, f"a reward of size {size:.3g} at beta={self.beta:g}")

    def report(self) -> Mapping[str, Metric]:
        """`target/anchor`: a_c, nats, the mean over prompts; chosen, and so without an error."""
        if not self.anchors:
            return {}
        mean = math.fsum(self.anchors.values()) / len(self.anchors)
        return {"target/anchor": Measurement(mean, mean, mean, self.fit_samples)}

    def state(self) -> dict[str, Any]:
        """The anchors a_c, by the prompt's row."""
        anchors = {str(row): value for row, value in self.anchors.items()}
        return {"anchors": anchors} if anchors else {}

    def with_state(self, state: dict[str, Any]) -> Anchored:
        """With the anchors of another; raises ValueError where they are none."""
        anchors = {int(row): float(value) for row, value in state.get("anchors", {}).items()}
        return replace(self, anchors=anchors)
