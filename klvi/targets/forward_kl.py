"""The optimum of the reward under a forward-KL penalty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from klvi.errors import UserError
from klvi.metrics.intervals import t_quantile
from klvi.metrics.measurement import Measurement, Metric
from klvi.metrics.tilting import normalised
from klvi.rewards.base import Reward
from klvi.rewards.python import as_reward
from klvi.samples import Samples
from klvi.schema import check_fields
from klvi.targets.base import checked_beta, resolved
from klvi.targets.fitting import constant, due, log_weight, number
from klvi.targets.schema import ForwardKLTarget
from klvi.targets.temperature import SolvedBeta

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """Λ of a context.

    Attributes:
        above: Λ − reward_max, units of the reward: so near to 0 that Λ itself would round it.
        error: standard error of Λ.
        total: S(Λ) on the samples, which is Z.
        effective: effective samples, weighed towards p.
    """

    above: float
    error: float
    total: float
    effective: float


@dataclass(frozen=True, kw_only=True)
class LevelsFit:
    """Λ by the row of the context, from so many samples."""

    levels: Mapping[int, Level]
    count: int


@dataclass(frozen=True)
class ForwardKL(SolvedBeta):
    """p = β·π0/(Λ − r), which maximises E_π[r] − β·KL(π0‖π); one Λ a context makes it sum to 1.

    Λ is the only root of `S(Λ) = E_π0[β/(Λ − r)] = 1` above the largest reward, and
    `Λ = β + E_p[r]`. It is the fixed point of the k3 estimator of the KL in the loss, taken over
    whole sequences (Vojnovic and Yun 2025, arXiv 2502.18548, for GRPO). Λ is fitted to samples of
    the prior before update 0 and to samples of policy and prior every `refit_every` updates, up to
    two thirds of these. As long as no sample has the reward `reward_max`, Λ stays a little above
    it, so that the potential is finite on what comes up later; Z is then S(Λ) < 1, and p is the
    optimum at β/Z, reported as `target/beta_fit`: the least bound is the best. Two sequences of
    equal reward keep the prior's odds, whatever β is.

    Attributes:
        reward: r.
        beta: units of the reward per nat.
        reward_max: no reward is larger.
        fit: None until it is fitted.
    """

    name: ClassVar[str] = "forward_kl"
    reward: Reward
    beta: float
    reward_max: float
    refit_every: int | None = 10
    fit: LevelsFit | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_beta(self.beta))
        check_fields(ForwardKLTarget, self)
        object.__setattr__(self, "reward", as_reward(self.reward))

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """The reward alone."""
        return {"reward": self.reward}

    def log_potential(self, samples: Samples) -> Tensor:
        """log β − log(Λ − r): `(N,)`, nats.

        Raises UserError for a reward above `reward_max`, and for a context of which no sample was
        in the fit.
        """
        assert self.fit is not None, "is fitted before it is used"
        gap = self._gap(samples)
        levels, context = self.fit.levels, samples.context.tolist()
        missing = sorted(set(context) - set(levels))
        if missing:
            raise UserError(
                f"target=forward_kl: Λ of prompt {missing[0]} is unknown, as none of "
                f"{self.fit.count} samples completed it; raise target.fit_samples, to 30 or more "
                "of each prompt"
            )
        above = torch.tensor([levels[row].above for row in context], dtype=torch.float64)
        return resolved(math.log(self.beta) - (above.to(gap) + gap).log(), "target=forward_kl")

    def _gap(self, samples: Samples) -> Tensor:
        """`(N,)` by how much each reward is below `reward_max`; raises UserError for one above."""
        gap = self.reward_max - samples.reward.double()
        if len(gap) and float(gap.min()) < 0:
            worst = int(gap.argmin())
            raise UserError(
                f"target.reward_max={self.reward_max:g}: {samples.texts[worst][:60]!r} has the "
                f"reward {float(samples.reward[worst]):.6g}; give a bound that no reward exceeds"
            )
        return gap

    def farthest(self, samples: Samples) -> str:
        """Where no sample has the reward `reward_max`, Λ stays too far above them."""
        gap = float(self._gap(samples).min())
        if gap == 0:
            return super().farthest(samples)
        return (
            f"as Λ stays above target.reward_max={self.reward_max:g} and no reward of "
            f"{len(samples)} samples of the prior is larger than {self.reward_max - gap:g}; lower "
            "the bound to the largest reward there can be, or ask less"
        )

    def samples_to_fit(self, update: int, updates: int = 1) -> int:
        """To the prior's samples before update 0, and again as the policy finds better ones."""
        return self.fit_samples if update == 0 or due(update, updates, self.refit_every) else 0

    def fitted(self, samples: Samples) -> ForwardKL:
        """With Λ of weighted samples, by a root finder; and at first with β, where it is found."""
        self.check_fixed()
        target = super().fitted(samples)
        return target.at_beta(target.beta, samples)

    def optimum(self, samples: Samples) -> ForwardKL:
        """With the Λ, and β, of all sequences, whose largest reward is the bound."""
        self._gap(samples)
        least = replace(self, reward_max=float(samples.reward.max()), found=None, fit=None)
        target = least.with_beta_found(samples, 0.0)
        return target.at_beta(target.beta, samples)

    def at_beta(self, beta: float, samples: Samples) -> ForwardKL:
        """At another `beta`, with its Λ; of contexts without samples Λ stays as it was."""
        gap = self._gap(samples).cpu()
        rows, place = samples.context.unique(return_inverse=True)
        weight = normalised(log_weight(samples), place, len(rows))[0]
        levels = dict(self.fit.levels) if self.fit is not None else {}
        for index, row in enumerate(rows.tolist()):
            own = place == index
            levels[row] = level(gap[own].numpy(), weight[own].numpy(), beta)
        return replace(self, beta=beta, fit=LevelsFit(levels=levels, count=len(samples)))

    def report(self) -> Mapping[str, Metric]:
        """`target/lambda`, the mean of Λ over contexts, with its interval; what β the p has."""
        if self.fit is None:
            return {}
        levels, count = list(self.fit.levels.values()), self.fit.count
        value = self.reward_max + math.fsum(each.above for each in levels) / len(levels)
        error = math.sqrt(math.fsum(each.error**2 for each in levels)) / len(levels)
        effective = min(each.effective for each in levels)
        half = t_quantile(0.95, max(effective - 1, 1)) * error
        reached = math.fsum(self.beta / each.total for each in levels) / len(levels)
        return {
            **super().report(),
            "target/lambda": Measurement(value, value - half, value + half, count),
            "target/beta_fit": constant(reached, count),
            "target/fit_ess": constant(effective, count),
        }

    def state(self) -> dict[str, Any]:
        """The fit, once there is one: Λ by context, and β where it was found."""
        if self.fit is None:
            return {}
        levels = {str(row): asdict(each) for row, each in self.fit.levels.items()}
        return {**super().state(), "levels": levels, "count": self.fit.count}

    def with_state(self, state: dict[str, Any]) -> ForwardKL:
        """With the fit of another's `state()`; raises ValueError for what is none."""
        if not state:
            return self
        target = super().with_state({"found": state["found"]} if "found" in state else {})
        levels = {
            int(row): Level(**{key: number(value) for key, value in each.items()})
            for row, each in state["levels"].items()
        }
        return replace(target, fit=LevelsFit(levels=levels, count=number(state["count"])))


def level(gap: Array, weight: Array, beta: float) -> Level:
    """Λ = R + e^η of one context, R a bound of the rewards: `Σ w·β/(e^η + R − r) = 1`.

    The sum falls in η and its logarithm is well scaled, so that a root finder does (theory: the
    root lies between `log(β·w(R))`, w(R) the weight of the samples at R, and `log β`). Where no
    sample is at R the root may lie below R, of which R + β/N is the nearest that is allowed.

    Args:
        gap: `(N,)` R − r, at least 0.
        weight: `(N,)` of the prior, which sum to 1.
        beta: units of the reward per nat.
    """
    from scipy.optimize import brentq
    from scipy.special import logsumexp

    kept = weight > 0
    gap, weight = gap[kept], weight[kept]
    log_weight = np.log(weight)
    best = weight[gap == 0].sum()

    def excess(eta: float) -> float:
        return float(math.log(beta) + logsumexp(log_weight - np.log(math.exp(eta) + gap)))

    low, high = math.log(beta) + math.log(best or 1 / len(gap)), math.log(beta)
    eta = low
    if excess(low) > 0:
        eta = high if excess(high) >= 0 else float(brentq(excess, low, high, xtol=1e-14))
    above = math.exp(eta)
    ratio = beta / (above + gap)
    total = float(weight @ ratio)
    slope = float(weight @ ratio**2) / beta
    probability = weight * ratio / total
    return Level(
        above=above,
        error=float(np.sqrt(np.sum((weight * (ratio - total)) ** 2))) / slope,
        total=total,
        effective=float(1 / np.sum(probability**2)),
    )
