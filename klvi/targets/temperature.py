"""A temperature that is found: β such that the target is a given KL from the prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from klvi.errors import UserError
from klvi.metrics.intervals import t_quantile
from klvi.metrics.measurement import Measurement, Metric
from klvi.metrics.tilting import Tilted, tilted
from klvi.samples import Samples
from klvi.targets.base import Target
from klvi.targets.fitting import constant, log_weight, number
from klvi.targets.schema import MOST_SAMPLES

T = TypeVar("T", bound="SolvedBeta")

# Effective samples without which no β is found.
ESS_FLOOR = 30.0
# Nats around the range of the scores in which log β is looked for, and the width of a step.
FARTHEST, STEP = 14.0, 2.0


@dataclass(frozen=True)
class BetaFit:
    """What was found.

    Attributes:
        beta: units of the reward per nat, with its 95% interval.
        effective: effective samples behind it, of the context with the fewest.
    """

    beta: Measurement
    effective: float


@dataclass(frozen=True, kw_only=True)
class SolvedBeta(Target):
    """A target whose `beta` is found where `kl_prior` is given, so that methods meet at equal KL.

    β solves `KL(p_β‖π0) = kl_prior`, the mean over contexts, on weighted samples of the prior
    before update 0; the target's own `beta` is then replaced.

    Attributes:
        kl_prior: nats per sequence; None where `beta` is given.
        fit_samples: of the prior that β is found from.
        found: None until it is.
    """

    kl_prior: float | None = None
    fit_samples: int = 4096
    found: BetaFit | None = None

    def at_beta(self: T, beta: float, samples: Samples) -> T:
        """The target at another `beta`, with what else is fitted to the samples."""
        own: dict[str, Any] = {"beta": beta}
        return replace(self, **own)

    def samples_to_fit(self, update: int, updates: int = 1) -> int:
        """Once, of the prior, where β is to be found."""
        return self.fit_samples if update == 0 and self.kl_prior is not None else 0

    def fitted(self: T, samples: Samples) -> T:
        """At the β that gives the KL, once and for all.

        Raises UserError where the samples tell of none.
        """
        return self.with_beta_found(samples, ESS_FLOOR)

    def farthest(self, samples: Samples) -> str:
        """Why no β leads farther from the prior than the smallest does, on samples of it."""
        return (
            f"which is -log of the best ones' share among {len(samples)} samples of the prior; "
            "no beta leads farther"
        )

    def optimum(self: T, samples: Samples) -> T | None:
        """At the β that all sequences give."""
        if self.kl_prior is None:
            return None
        own: dict[str, Any] = {"found": None}
        return replace(self, **own).with_beta_found(samples, 0.0)

    def with_beta_found(self: T, samples: Samples, floor: float) -> T:
        """At the β that gives the KL, where at least `floor` samples are effective at it."""
        if self.kl_prior is None or self.found is not None:
            return self
        self.check_fixed()

        def potential(beta: float) -> Tensor:
            return self.at_beta(beta, samples).log_potential(samples)

        unit = max(float(values.max() - values.min()) for values in samples.scores.values())
        if unit == 0:
            raise UserError(
                f"target.kl_prior={self.kl_prior:g}: all {len(samples)} samples of the prior have "
                "the same reward, and every beta the same KL of 0; raise target.fit_samples, or "
                "choose another reward"
            )
        fit = beta_for_kl(potential, unit, samples, self.kl_prior, floor, self.farthest)
        return replace(self.at_beta(fit.beta.value, samples), found=fit)

    def report(self) -> Mapping[str, Metric]:
        """`target/beta` with its interval, and what it was found from."""
        if self.found is None or self.kl_prior is None:
            return {}
        count = self.found.beta.n
        return {
            "target/beta": self.found.beta,
            "target/kl_prior_asked": constant(self.kl_prior, count),
            "target/beta_ess": constant(self.found.effective, count),
        }

    def state(self) -> dict[str, Any]:
        """The fit, once there is one."""
        return {} if self.found is None else {"found": asdict(self.found)}

    def with_state(self: T, state: dict[str, Any]) -> T:
        """At the β of another's `state()`; raises ValueError for what is none."""
        if not state:
            return self
        if self.kl_prior is None:
            raise ValueError(
                f"target {self.name} keeps no state without kl_prior, but was given {list(state)}"
            )
        beta = {key: number(value) for key, value in state["found"]["beta"].items()}
        fit = BetaFit(Measurement(**beta), number(state["found"]["effective"]))
        own: dict[str, Any] = {"beta": fit.beta.value, "found": fit}
        return replace(self, **own)


def beta_for_kl(
    potential: Callable[[float], Tensor],
    unit: float,
    samples: Samples,
    kl: float,
    floor: float,
    farthest: Callable[[Samples], str],
) -> BetaFit:
    """The β with `KL(p_β‖π0) = kl`, by a root finder in log β, in which the KL falls.

    The standard error is that of the KL over its slope in log β (delta method).

    Args:
        potential: gives `(N,)` log P − log π0 at a β, nats.
        unit: the range of the scores, the scale of β.
        samples: weighted samples of the prior, of any proposal.
        kl: nats per sequence, the mean over contexts.
        floor: effective samples, of each context, that have to carry it.
        farthest: says why no β leads farther than the samples do.

    Raises:
        UserError: the samples reach no such KL, or too few of them do.
    """
    from scipy.optimize import brentq

    weight, context = log_weight(samples), samples.context

    def at(log_beta: float) -> Tilted:
        return tilted(potential(math.exp(log_beta)), weight, context, 1.0)

    low = high = start = math.log(unit)
    while at(low).kl <= kl:
        if low < start - FARTHEST:
            limit = at(low)
            if limit.effective < floor:
                raise UserError(_too_few(kl, limit.effective, samples, floor))
            reason = f"must be below {limit.kl:.4g} nats, {farthest(samples)}"
            raise UserError(f"target.kl_prior={kl:g}: {reason}")
        low -= STEP
    while at(high).kl >= kl:
        if high > start + FARTHEST:
            raise UserError(f"target.kl_prior={kl:g}: a beta below {math.exp(high):.2g} has more")
        high += STEP
    root = float(brentq(lambda log_beta: at(log_beta).kl - kl, low, high, xtol=1e-12))
    found, width = at(root), 1e-4
    if found.effective < floor:
        raise UserError(_too_few(kl, found.effective, samples, floor))
    slope = (at(root + width).kl - at(root - width).kl) / (2 * width)
    error = found.kl_error / abs(slope)
    half = t_quantile(0.95, max(found.effective - 1, 1)) * error
    beta = math.exp(root)
    interval = beta * math.exp(-half), beta * math.exp(half)
    return BetaFit(Measurement(beta, *interval, len(samples)), found.effective)


def _too_few(kl: float, effective: float, samples: Samples, floor: float) -> str:
    contexts = len(samples.context.unique())
    carried = math.log(len(samples) / contexts / floor)
    # n/ESS tends to 1 + χ²(p‖π0), at least e^KL, and few samples underestimate it.
    least = contexts * floor * math.exp(min(kl, 40.0))
    wanted = max(least, len(samples) * floor / effective)
    remedy = f"target.fit_samples={math.ceil(wanted)}" if wanted <= MOST_SAMPLES else "a nearer KL"
    return (
        f"target.kl_prior={kl:g}: {effective:.2g} effective samples of {len(samples)} carry it, "
        f"and {floor:g} have to: about {max(carried, 0.0):.2g} nats are within their reach; "
        f"give {remedy}"
    )
