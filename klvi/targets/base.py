"""What a target is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.metrics.measurement import Metric
from klvi.rewards.base import Reward, of_rollout
from klvi.samples import Samples
from klvi.schema import plain


class Target(Protocol):
    """An unnormalised distribution P(x) = π0(x)·exp(log_potential(x)), with Z = Σ P and p = P/Z.

    Immutable: what is fitted, tempered or restored is another target. `beta` is the reward's units
    per nat: part of the posterior; elsewhere it only scales losses.
    """

    name: ClassVar[str]
    beta: float

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """What has to score samples before the target is asked of them, by the score's name."""
        ...

    def log_potential(self, samples: Samples) -> Tensor:
        """log P − log π0 of scored samples: `(N,)`, nats, −inf outside of p.

        Float64, whatever the scores' type. Raises UserError where that resolves no differences.
        """
        ...

    def log_unnormalised(self, samples: Samples) -> Tensor:
        """log P of scored samples: `(N,)`, nats per sequence, float64, −inf outside of p.

        Raises UserError where the potential is no number for each of them.
        """
        potential = self.log_potential(samples)
        shape = tuple(potential.shape) if isinstance(potential, Tensor) else None
        if shape != (len(samples),):
            found = type(potential).__name__ if shape is None else f"a tensor of shape {shape}"
            raise UserError(
                f"target={self.name}: its log_potential gave {found} for {len(samples)} samples; "
                "give a number of each"
            )
        if bool((potential.isnan() | potential.isposinf()).any()):
            raise UserError(
                f"target={self.name}: its log_potential gave NaN or infinity; give finite nats, or "
                "-inf for what it excludes"
            )
        return samples.log_prior_sequence + potential

    @property
    def no_potential(self) -> str | None:
        """Why nothing can be said of P, where it has no potential that samples tell; else None."""
        for reward in self.scorers.values():
            if of_rollout(reward):
                return (
                    f"reward {reward.name} scores each completion by the others of its rollout: "
                    "what is aimed at moves with the policy"
                )
        return None

    @property
    def log_z(self) -> float | None:
        """log Z, nats, of every context, where the target is normalised by itself; else None."""
        return None

    @property
    def held_out_texts(self) -> Sequence[tuple[Context, str]]:
        """Completions of contexts on whose probability a policy is measured as well."""
        return ()

    def samples_to_fit(self, update: int, updates: int = 1) -> int:
        """From how many samples it is fitted before `update` of `updates`; 0 for not at all.

        Before update 0 they are drawn from the prior, later from policy and prior by halves.
        """
        return 0

    def check_fixed(self) -> None:
        """Raises UserError where what samples of the prior tell holds of no other distribution."""
        if self.no_potential is not None:
            raise UserError(
                f"target={self.name}: cannot be fitted to samples of the prior: "
                f"{self.no_potential}; choose another reward, or target=posterior with a beta"
            )

    def fitted(self, samples: Samples) -> Target:
        """The target with its free parameters estimated from weighted samples of any proposal."""
        return self

    def optimum(self, samples: Samples) -> Target | None:
        """The target that a fit estimates, from all sequences; None where nothing is fitted.

        Args:
            samples: every sequence of every context, as if drawn uniformly.
        """
        return None

    def tempered(self, share: float) -> Target:
        """p ∝ π0·exp(share·log_potential): the prior at 0, the target itself at 1.

        Shares between lie on the path that annealed importance sampling takes (Neal 2001, arXiv
        physics/9803008).
        """
        return self if share == 1 else Tempered(self, share, self.beta)

    def report(self) -> Mapping[str, Metric]:
        """What was fitted, with its error, by the names of metrics (`target/…`)."""
        return {}

    def state(self) -> dict[str, Any]:
        """What was fitted, as JSON holds it: finite numbers, texts, lists, and mappings by text."""
        return {}

    def with_state(self, state: dict[str, Any]) -> Target:
        """The target with `state()` of another; raises ValueError where it can have none."""
        if state:
            raise ValueError(f"target {self.name} keeps no state, but was given {list(state)}")
        return self


@dataclass(frozen=True)
class Tempered(Target):
    """A target on the way from the prior to `whole`."""

    name: ClassVar[str] = "tempered"
    whole: Target
    share: float
    beta: float

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """Those of the whole target."""
        return self.whole.scorers

    @property
    def no_potential(self) -> str | None:
        """Where the whole target has none."""
        return self.whole.no_potential

    def report(self) -> Mapping[str, Metric]:
        """Of the whole target."""
        return self.whole.report()

    def log_potential(self, samples: Samples) -> Tensor:
        """`(N,)` nats; 0 everywhere where the share is 0, also outside of the whole target."""
        potential = self.whole.log_potential(samples)
        return self.share * potential if self.share else torch.zeros_like(potential)


def checked_beta(beta: Any) -> float:
    """The number that a temperature is; raises UserError for what is none."""
    beta = plain(beta)
    number = isinstance(beta, float | int) and not isinstance(beta, bool)
    if not (number and 0 < beta < math.inf):
        raise UserError(f"beta={beta!r}: must be a number, greater than 0")
    return float(beta)


# Rounding of a potential above which differences between sequences are no longer resolved, nats.
COARSEST = 1e-3


def resolved(potential: Tensor, what: str) -> Tensor:
    """The potentials `(N,)`, nats, where float64 resolves their differences.

    Raises UserError, naming `what` they are made of, for those that overflow, and those so large
    that log π0 is lost in their rounding.
    """
    largest = float(potential.abs().max()) if len(potential) else 0.0
    if largest * torch.finfo(torch.float64).eps <= COARSEST:
        return potential
    raise UserError(
        f"{what}: log P reaches {largest:.3g} nats, of which 64-bit numbers resolve no difference "
        "of a nat between sequences; scale the reward down, or choose another beta"
    )
