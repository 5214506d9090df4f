"""The prior, tilted so that features have wanted means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from klvi.errors import UserError
from klvi.metrics.intervals import t_quantile
from klvi.metrics.measurement import Measurement, Metric
from klvi.metrics.tilting import normalised
from klvi.rewards.base import Reward
from klvi.rewards.python import as_reward
from klvi.samples import Samples
from klvi.schema import plain, settings_of
from klvi.targets.base import Target, checked_beta, resolved
from klvi.targets.fitting import constant, due, log_weight, measured, number
from klvi.targets.multipliers import Features, solve
from klvi.targets.schema import MomentsTarget

LABEL = re.compile(r"[\w-]+")


class Feature(NamedTuple):
    """A feature φ, any reward, and its wanted mean under p."""

    reward: Reward
    mean: float


@dataclass(frozen=True)
class MomentsFit:
    """What was fitted.

    Attributes:
        multipliers: λ of each feature, nats per unit of it, with its 95% interval.
        effective: effective samples behind them.
        prior_effective: those of the first fit, whose samples were the prior's.
    """

    multipliers: Mapping[str, Measurement]
    effective: float
    prior_effective: float


@dataclass(frozen=True)
class Moments(Target):
    """p ∝ π0·exp(Σ λ_i φ_i), with E_p[φ_i] = μ_i averaged over contexts, which share λ.

    Of all distributions c with these means it is the nearest to π0: `KL(c‖π0) = KL(c‖p) + KL(p‖π0)`
    (Khalifa et al. 2021, arXiv 2012.11635, distributional constraints). With one context and one
    binary feature of base rate m, λ = logit μ − logit m. With `constraint`, π0·1[r ≥ threshold]
    stands in the prior's place (hybrid constraints). λ is fitted before update 0 to samples of the
    prior and, where fewer than `ess_floor` of these are effective, every `refit_every` updates to
    samples of policy and prior, up to two thirds of the updates. `beta` does not enter p.

    Attributes:
        reward: r, reported and, with `constraint`, conditioned on.
        features: by name; the name's score is `feature/NAME`.
        fit_samples: of a fit.
        fit: None until it is fitted.
    """

    name: ClassVar[str] = "moments"
    reward: Reward
    features: Mapping[str, Feature]
    beta: float = 0.1
    constraint: bool = False
    threshold: float = 0.5
    fit_samples: int = 4096
    refit_every: int | None = 10
    ess_floor: float = 1000.0
    fit: MomentsFit | None = None

    def __post_init__(self) -> None:
        own = {key: getattr(self, key) for key in MomentsTarget.model_fields if key != "name"}
        section = settings_of(MomentsTarget, own | {"features": {}})
        for key, value in section.settings().items():
            if key != "features":
                object.__setattr__(self, key, value)
        object.__setattr__(self, "beta", checked_beta(self.beta))
        object.__setattr__(self, "reward", as_reward(self.reward))
        object.__setattr__(self, "features", _checked(self.features))

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """The reward, and each feature as `feature/NAME`."""
        features = {f"feature/{name}": each.reward for name, each in self.features.items()}
        return {"reward": self.reward, **features}

    def log_potential(self, samples: Samples) -> Tensor:
        """Σ λ_i φ_i: `(N,)`, nats, −inf below the threshold of a constraint."""
        assert self.fit is not None, "is fitted before it is used"
        potential = torch.zeros_like(samples.reward, dtype=torch.float64)
        for name, found in self.fit.multipliers.items():
            potential = potential + found.value * samples.scores[f"feature/{name}"].double()
        potential = resolved(potential, "target.features")
        return torch.where(self._allowed(samples), potential, -torch.inf)

    def _allowed(self, samples: Samples) -> Tensor:
        """`(N,)` bool."""
        if not self.constraint:
            return torch.ones_like(samples.reward, dtype=torch.bool)
        return samples.reward >= self.threshold

    def samples_to_fit(self, update: int, updates: int = 1) -> int:
        """To the prior's before update 0; later only where these carry too few effective ones."""
        if update == 0:
            return self.fit_samples
        few = self.fit is not None and self.fit.prior_effective < self.ess_floor
        return self.fit_samples if few and due(update, updates, self.refit_every) else 0

    def fitted(self, samples: Samples) -> Moments:
        """With λ of weighted samples, by a convex solve.

        Raises UserError where no λ gives the means, naming the inequality that forbids them, and
        where a feature does not vary or follows from others.
        """
        self.check_fixed()
        allowed, weight = self._allowed(samples).cpu(), log_weight(samples)
        rows, place = samples.context.unique(return_inverse=True)
        met = torch.zeros(len(rows)).index_add(0, place, allowed.float())
        if not bool((met > 0).all()):
            none = f"none of {len(samples)} samples" + (" of a prompt" if len(rows) > 1 else "")
            raise UserError(
                f"target.constraint: {none} has a reward of at least target.threshold="
                f"{self.threshold:g}; lower it, raise target.fit_samples, or choose another reward"
            )
        weight = torch.where(allowed, weight, -torch.inf)
        names = list(self.features)
        columns = [samples.scores[f"feature/{name}"].cpu().double() for name in names]
        features = Features.of(
            names,
            torch.stack(columns, 1).numpy(),
            normalised(weight, place, len(rows))[0].numpy(),
            place.numpy(),
        )
        found = solve(features, np.array([each.mean for each in self.features.values()]))
        width = t_quantile(0.95, max(found.effective - 1, 1))
        pairs = zip(names, found.value.tolist(), (width * found.error).tolist(), strict=True)
        multipliers = {name: measured(value, half, len(samples)) for name, value, half in pairs}
        first = found.effective if self.fit is None else self.fit.prior_effective
        return replace(self, fit=MomentsFit(multipliers, found.effective, first))

    def optimum(self, samples: Samples) -> Moments:
        """With the λ of all sequences."""
        return self.fitted(samples)

    def report(self) -> Mapping[str, Metric]:
        """`target/lambda/NAME`, with intervals, and `target/fit_ess`."""
        if self.fit is None:
            return {}
        found = {f"target/lambda/{name}": each for name, each in self.fit.multipliers.items()}
        count = next(iter(found.values())).n
        return {**found, "target/fit_ess": constant(self.fit.effective, count)}

    def state(self) -> dict[str, Any]:
        """The fit, once there is one."""
        return {} if self.fit is None else asdict(self.fit)

    def with_state(self, state: dict[str, Any]) -> Moments:
        """With the fit of another's `state()`; raises ValueError for what is none."""
        if not state:
            return replace(self, fit=None)
        if set(state.get("multipliers", {})) != set(self.features):
            raise ValueError("its multipliers are those of other features")
        multipliers = {
            name: Measurement(**{key: number(value) for key, value in each.items()})
            for name, each in state["multipliers"].items()
        }
        sizes = number(state["effective"]), number(state["prior_effective"])
        return replace(self, fit=MomentsFit(multipliers, *sizes))


def _checked(features: Any) -> dict[str, Feature]:
    """The features, each name one that a score can have; raises UserError for others."""
    if not isinstance(features, Mapping) or not features:
        raise UserError("target.features: give at least one, by its name, with reward and mean")
    found = {}
    for name, pair in features.items():
        if not isinstance(pair, Sequence) or len(pair) != len(Feature._fields):
            raise UserError(
                f"target.features.{name}: is {type(pair).__name__}; give (reward, mean), as in "
                f"{{{name!r}: (reward, 0.5)}}"
            )
        reward, mean = pair
        wanted = plain(mean)
        if not isinstance(name, str) or not LABEL.fullmatch(name):
            raise UserError(
                f"target.features.{name}: names a score; use letters, digits, dashes and "
                "underscores"
            )
        if isinstance(wanted, bool) or not isinstance(wanted, int | float):
            raise UserError(f"target.features.{name}.mean={wanted!r}: must be a number")
        found[name] = Feature(as_reward(reward, f"target.features.{name}.reward"), float(wanted))
    return found
