"""Generation with distributional control: forward KL to the target by policy gradients.

Khalifa, Elsahar and Dymetman 2021 (arXiv 2012.11635), algorithm 1 (KL-adaptive DPG), with the
baseline of Korbak et al. 2022 (arXiv 2206.00761) and a running estimate of log Z per prompt.
Samples may come in part from the prior (a defensive mixture, Hesterberg 1995).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from klvi.config.schema import GDCObjective
from klvi.objectives.base import Objective, Prediction, Signals, Statistics, Totals
from klvi.samples import Samples


def dpg_loss(log_policy: Tensor, weights: Tensor, baseline: Tensor) -> Tensor:
    """Sum over sequences of −(w − b)·log π(x), whose gradient is N·∇KL(p‖π) in expectation.

    Args:
        log_policy: `(N,)`, nats per sequence, with gradient.
        weights: `(N,)` P(x)/(Z·q(x)), x ~ q.
        baseline: `(N,)` π(x)/q(x), or 0; E_q[π/q·∇log π] = 0, so it changes no mean.
    """
    return -((weights - baseline).detach() * log_policy).sum()


def effective_sample_size(log_weights: Tensor) -> float:
    """(Σw)²/Σw² of `log_weights` `(N,)`; 0 where every weight is zero."""
    if bool(torch.isneginf(log_weights).all()):
        return 0.0
    return float((2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp())


class RunningLogZ:
    """log Z per prompt, as a running average of importance weights over all samples so far."""

    def __init__(self) -> None:
        self._log_sum: dict[int, float] = {}
        self._count: dict[int, int] = {}

    def update(self, log_weights: Tensor, context: Tensor) -> Tensor:
        """Add log P − log q `(N,)`, nats per sequence; returns each sample's log Z `(N,)`.

        A prompt none of whose samples has had weight yet has log Z = −inf.
        """
        rows, place = context.to(log_weights.device).unique(return_inverse=True)
        log_z = torch.empty_like(log_weights)
        for number, prompt in enumerate(rows.tolist()):
            members = (place == number).nonzero()[:, 0]
            log_sum = float(log_weights[members].logsumexp(0))
            self._count[prompt] = self._count.get(prompt, 0) + len(members)
            self._log_sum[prompt] = _log_add(self._log_sum.get(prompt, -math.inf), log_sum)
            log_z[members] = self._log_sum[prompt] - math.log(self._count[prompt])
        return log_z

    def state_dict(self) -> dict[str, Any]:
        """The sums and counts."""
        return {"log_sum": dict(self._log_sum), "count": dict(self._count)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`."""
        self._log_sum, self._count = dict(state["log_sum"]), dict(state["count"])


class GDC(Objective):
    """Distributional policy gradient towards the target.

    Samples are the policy's own, those of an earlier policy (`adaptive`), or a `mixture` of the
    policy's and the prior's. A policy that has lost a rare sequence seldom draws it again; in the
    mixture it comes up as often as the prior has it.
    """

    name = "gdc"

    def __init__(self, config: GDCObjective) -> None:
        self.config = config
        self.epochs = config.epochs
        self.minibatches = config.minibatches
        self.adaptive_proposal = config.proposal == "adaptive"
        self.log_z = RunningLogZ()
        self._gain = 0.0

    def prior_rows(self, count: int) -> int:
        """`prior_share` of a mixture's `count` completions, none of other proposals'."""
        return int(self.config.prior_share * count) if self.config.proposal == "mixture" else 0

    def signals(self, samples: Samples, log_target: Tensor) -> tuple[Signals, Statistics]:
        """Normalised importance weights `(N,)`; none where every weight of the rollout is zero."""
        log_proposal = self._log_proposal(samples)
        log_weights = log_target.double() - log_proposal.double()
        log_z = self.log_z.update(log_weights, samples.context)
        ess = effective_sample_size(log_weights)
        statistics = {
            "gdc/log_z": log_z.exp().mean().log().item(),
            "gdc/ess": ess,
            "gdc/zero_weights": torch.isneginf(log_weights).double().mean().item(),
        }
        if ess == 0.0:
            return {}, statistics
        weights = torch.where(torch.isneginf(log_weights), -torch.inf, log_weights - log_z).exp()
        # Where a prompt's Z is still 0, its samples say nothing of where the target's mass is.
        known = torch.isfinite(log_z)
        signals = {"weights": weights.float(), "known": known, "log_proposal": log_proposal}
        return signals, statistics

    def _log_proposal(self, samples: Samples) -> Tensor:
        """`(N,)` log q of the whole rollout, nats per sequence.

        The balance heuristic (Veach and Guibas 1995): every sample is weighed by the mixture, also
        where it is known which part made it.
        """
        share = self.prior_rows(len(samples)) / len(samples)
        if share == 0.0:
            return samples.log_policy_sequence
        return torch.logaddexp(
            samples.log_policy_sequence + math.log1p(-share),
            samples.log_prior_sequence + math.log(share),
        )

    def loss(
        self, prediction: Prediction, samples: Samples, signals: Signals, totals: Totals
    ) -> tuple[Tensor, Statistics]:
        """The DPG loss per sequence of the minibatch.

        In later passes over a rollout q is no longer π, and the baseline π/q is what keeps the
        gradient that of KL(p‖π), and 0 where π has arrived.
        """
        log_policy = prediction.log_policy.sum(1)
        baseline = torch.zeros_like(log_policy)
        if self.config.baseline:
            ratio = (log_policy.detach() - signals["log_proposal"]).exp()
            baseline = torch.where(signals["known"], ratio, baseline)
        loss = dpg_loss(log_policy, signals["weights"], baseline) / totals.sequences
        return loss, {"loss/policy_avg": loss.item()}

    def retarget(self) -> None:
        """Estimate log Z, and the proposal's worth, of the new target alone."""
        self.log_z = RunningLogZ()
        self._gain = 0.0

    def refresh_proposal(self, samples: Samples, log_target: Tensor, log_policy: Tensor) -> bool:
        """Whether the policy is nearer to the target than the proposal, on samples so far.

        Evidence adds up until the proposal is renewed. With divergence kl it is
        E_p[log π − log q] = KL(p‖q) − KL(p‖π), with tv it is TV(p, q) − TV(p, π).

        Args:
            samples: N samples of the proposal q.
            log_target: `(N,)` log P.
            log_policy: `(N,)` log π, nats per sequence.
        """
        log_proposal = samples.log_policy_sequence.double()
        log_weights = log_target.double() - log_proposal
        if bool(torch.isneginf(log_weights).all()):
            return False
        weights = (log_weights - log_weights.logsumexp(0)).exp() * len(log_weights)
        log_ratio = log_policy.double() - log_proposal
        if self.config.divergence == "kl":
            gain = (weights * log_ratio).mean()
        else:
            gain = 0.5 * ((1 - weights).abs() - (log_ratio.exp() - weights).abs()).mean()
        self._gain += gain.item()
        refresh = self._gain > 0
        self._gain = 0.0 if refresh else self._gain
        return refresh

    def state_dict(self) -> dict[str, Any]:
        """The running log Z and the evidence for renewing the proposal."""
        return {"log_z": self.log_z.state_dict(), "gain": self._gain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`."""
        self.log_z.load_state_dict(state["log_z"])
        self._gain = state["gain"]


def _log_add(a: float, b: float) -> float:
    low, high = sorted((a, b))
    return high if math.isinf(low) else high + math.log1p(math.exp(low - high))
