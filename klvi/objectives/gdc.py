"""Generation with distributional control: forward KL to the target by policy gradients.

Khalifa, Elsahar and Dymetman 2021 (arXiv 2012.11635), algorithm 1 (KL-adaptive DPG), with the
baseline of Korbak et al. 2022 (arXiv 2206.00761) and a running estimate of log Z per context.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from klvi.objectives.base import Objective, Prediction, Signals, Statistics, Totals
from klvi.objectives.schema import GDCObjective
from klvi.samples import ROUNDINGS, Samples
from klvi.schema import settings_of
from klvi.targets.base import Target


def dpg_loss(
    log_policy: Tensor, weights: Tensor, baseline: Tensor, resolution: Tensor | float = 0.0
) -> Tensor:
    """Sum over sequences of −(w − b)·log π(x), whose gradient is N·∇KL(p‖π) in expectation.

    Args:
        log_policy: `(N,)`, nats per sequence, with gradient.
        weights: `(N,)` P(x)/(Z·q(x)), x ~ q.
        baseline: `(N,)` π(x)/q(x), or 0; E_q[π/q·∇log π] = 0, so it changes no mean.
        resolution: `(N,)` nats within which log w and log b are known. What differs by no more is
            equal: an optimizer that normalises gradients makes full steps of their rounding.
    """
    gain = (weights - baseline).detach()
    rounding = gain.abs() <= resolution * torch.maximum(weights, baseline.detach())
    return -(torch.where(rounding, 0.0, gain).to(log_policy.dtype) * log_policy).sum()


def effective_sample_size(log_weights: Tensor) -> float:
    """(Σw)²/Σw² of `log_weights` `(N,)`; 0 where every weight is zero."""
    if bool(torch.isneginf(log_weights).all()):
        return 0.0
    return float((2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp())


class RunningMean:
    """Means of importance weights per context over all samples so far, in log space.

    Each sample is judged by the *others* of its context. By its own weight too, it would be judged
    by itself where it is the first: every weight would be 1, whatever the target is.
    """

    def __init__(self) -> None:
        self._log_sum: dict[int, float] = {}
        self._count: dict[int, int] = {}

    def update(self, log_weights: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Add log weights `(N,)`, nats per sequence, of samples of `context` `(N,)`.

        Returns `(N,)` the log of the mean of the others of each sample's context, those of earlier
        updates included, and `(N,)` the log of the mean of all. Of n others, the mean is taken to
        be at least a weight/n, so that no sample outweighs those that it is judged by (truncated
        importance sampling: Ionides 2008, *J. Comput. Graph. Stat.* 17). It is nan where there is
        no other, −inf where none has had weight.
        """
        rows, place, sizes = context.cpu().unique(return_inverse=True, return_counts=True)
        values, order = log_weights.cpu().double(), place.argsort(stable=True)
        rank = torch.arange(len(order)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        earlier = [self._log_sum.get(row, -math.inf) for row in rows.tolist()]
        counts = torch.tensor([self._count.get(row, 0) for row in rows.tolist()])
        # A row per context: the sum of earlier updates, and this one's samples.
        table = values.new_full((len(rows), 1 + int(sizes.max())), -math.inf)
        table[:, 0] = torch.tensor(earlier, dtype=torch.float64)
        table[place[order], 1 + rank] = values[order]
        others = _log_sums_of_others(table)[place[order], 1 + rank][place_of(order)]
        total = table.logsumexp(1)
        number = (counts + sizes - 1)[place].double()
        self._log_sum |= dict(zip(rows.tolist(), total.tolist(), strict=True))
        self._count |= dict(zip(rows.tolist(), (counts + sizes).tolist(), strict=True))
        mean = torch.maximum(others, values) - number.log()
        mean = torch.where(number > 0, mean, torch.nan)
        return mean, (total - (counts + sizes).double().log())[place]

    def state_dict(self) -> dict[str, Any]:
        """The sums and counts."""
        return {"log_sum": dict(self._log_sum), "count": dict(self._count)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`."""
        self._log_sum, self._count = dict(state["log_sum"]), dict(state["count"])


def place_of(order: Tensor) -> Tensor:
    """The inverse `(N,)` of a permutation `(N,)`."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))


def _log_sums_of_others(table: Tensor) -> Tensor:
    """`(C, k)` log of the sum of all but each of `exp(table)` along rows, without cancellation."""
    nothing = table.new_full((len(table), 1), -math.inf)
    before = torch.cat([nothing, table[:, :-1]], 1).logcumsumexp(1)
    after = torch.cat([nothing, table.flip(1)[:, :-1]], 1).logcumsumexp(1).flip(1)
    return torch.logaddexp(before, after)


class GDC(Objective):
    """Distributional policy gradient towards the target, from samples of any known density."""

    name = "gdc"

    def __init__(self, **settings: Any) -> None:
        self.config = settings_of(GDCObjective, settings)
        self.epochs = self.config.epochs
        self.minibatches = self.config.minibatches
        self.log_z, self.log_ratio = RunningMean(), RunningMean()

    def signals(
        self, samples: Samples, target: Target, log_target: Tensor
    ) -> tuple[Signals, Statistics]:
        """Normalised importance weights `(N,)`; none where every weight of the rollout is zero.

        The baseline π/q is divided by an estimate of its mean, 1, from the very samples that Z is
        estimated from: at the target each weight then equals its baseline, whatever q is.
        """
        log_proposal = samples.log_drawn
        log_weights = log_target.double() - log_proposal
        log_z, log_z_of_all = self.log_z.update(log_weights, samples.context)
        log_scale, _ = self.log_ratio.update(
            samples.log_policy_sequence - log_proposal, samples.context
        )
        ess = effective_sample_size(log_weights)
        statistics = {
            "gdc/log_z": log_z_of_all.mean().item(),
            "gdc/ess": ess,
            "gdc/zero_weights": torch.isneginf(log_weights).double().mean().item(),
        }
        if ess == 0.0:
            return {}, statistics
        # Where a context's Z is still unknown, or 0, its samples say nothing of where the target's
        # mass is.
        device = log_weights.device
        known = torch.isfinite(log_z).to(device)
        weights = (log_weights - torch.where(known, log_z.to(device), torch.inf)).exp()
        signals = {
            "weights": weights,
            "log_proposal": log_proposal,
            "log_scale": torch.where(known, log_scale.to(device), torch.inf),
            "resolution": _resolution(samples, log_target),
        }
        return signals, statistics

    def loss(
        self, prediction: Prediction, samples: Samples, signals: Signals, totals: Totals
    ) -> tuple[Tensor, Statistics]:
        """The DPG loss per sequence of the minibatch.

        In later passes over a rollout q is no longer π, and the baseline π/q is what keeps the
        gradient that of KL(p‖π), and 0 where π has arrived.
        """
        baseline = torch.zeros_like(signals["weights"])
        if self.config.baseline:
            log_policy = prediction.log_policy.detach().double().sum(1)
            baseline = (log_policy - signals["log_proposal"] - signals["log_scale"]).exp()
        loss = dpg_loss(
            prediction.log_policy.sum(1), signals["weights"], baseline, signals["resolution"]
        )
        loss = loss / totals.sequences
        return loss, {"loss/policy_avg": loss.item()}

    def reset(self) -> None:
        """Estimate log Z of the new target alone."""
        self.log_z, self.log_ratio = RunningMean(), RunningMean()

    def state_dict(self) -> dict[str, Any]:
        """The running means."""
        return {
            "log_z": self.log_z.state_dict(),
            "log_ratio": self.log_ratio.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`."""
        self.log_z.load_state_dict(state["log_z"])
        self.log_ratio.load_state_dict(state["log_ratio"])


def _resolution(samples: Samples, log_target: Tensor) -> Tensor:
    """`(N,)` nats within which the log of a weight over its baseline is known: its own rounding,
    and that of the samples that it is judged by.
    """
    own = samples.resolution
    finite = log_target[torch.isfinite(log_target)].double().abs()
    size = float(finite.max()) if len(finite) else 0.0
    return own + own.mean() + ROUNDINGS * torch.finfo(torch.float64).eps * size
