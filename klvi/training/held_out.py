"""How well a reward model predicts the labels of pairs that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from klvi.metrics.intervals import bounded_interval, estimate, interval
from klvi.metrics.measurement import Measurement

CONFIDENCE = 0.95
BINS = 10
# What an interval needs.
FEWEST = 2


@dataclass(frozen=True)
class Bin:
    """Pairs to which a model gives about the same probability.

    Attributes:
        predicted: the mean probability of what the model prefers, from 0.5 to 1.
        observed: the share of them in which that was chosen, with its interval.
    """

    predicted: float
    observed: Measurement


@dataclass(frozen=True)
class HeldOut:
    """A model, or an ensemble's mean, on N held-out pairs.

    Attributes:
        accuracy: the share of labels that it predicts; a margin of 0 counts half.
        loss: mean −log σ(margin), nats per pair.
        order: the share of pairs that it orders as the reward behind the labels does, of those that
            the reward tells apart; None where the file does not tell the reward.
        calibration_error: mean distance of a bin's observed share from its predicted probability,
            weighted by its pairs (Naeini et al. 2015).
        bins: from the least to the most certain; those without pairs are left out.
    """

    accuracy: Measurement
    loss: Measurement
    order: Measurement | None
    calibration_error: float
    bins: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        """The entry of `summary.json`."""
        return {
            "accuracy": self.accuracy.to_json(),
            "loss": self.loss.to_json(),
            **({} if self.order is None else {"order": self.order.to_json()}),
            "calibration_error": self.calibration_error,
            "calibration": [
                {"predicted": each.predicted, "observed": each.observed.to_json()}
                for each in self.bins
            ],
        }


def measured(margins: Tensor, gold: Tensor | None) -> HeldOut:
    """What `margins` `(N,)`, r(chosen) − r(rejected) in nats, are worth.

    Args:
        gold: `(N,)` the margins of the reward behind the labels; None where it is unknown.
    """
    bins = tuple(_bins(margins))
    told = torch.zeros(0) if gold is None else agreement(margins * gold.sign())[gold != 0]
    errors = softplus(-margins)
    return HeldOut(
        accuracy=share(agreement(margins)),
        loss=interval(estimate(float(errors.mean()), errors), CONFIDENCE, low=0.0),
        order=share(told) if len(told) >= FEWEST else None,
        calibration_error=sum(
            each.observed.n * abs(each.observed.value - each.predicted) for each in bins
        )
        / len(margins),
        bins=bins,
    )


@dataclass(frozen=True)
class EnsembleHeldOut:
    """An ensemble on N held-out pairs.

    Attributes:
        members: by their names.
        mean: of several members; None of one.
        scores: the share of labels that the reward behind them predicts itself, which is what there
            is to reach; None where the file does not tell it.
    """

    members: Mapping[str, HeldOut]
    mean: HeldOut | None
    scores: Measurement | None

    @staticmethod
    def of(margins: Sequence[Tensor], gold: Tensor | None) -> EnsembleHeldOut:
        """What the members' margins, `(N,)` each, and their mean are worth; see `measured`."""
        several = len(margins) > 1
        return EnsembleHeldOut(
            members={str(number): measured(found, gold) for number, found in enumerate(margins)},
            mean=measured(torch.stack(list(margins)).mean(0), gold) if several else None,
            scores=None if gold is None else share(agreement(gold)),
        )

    def to_json(self) -> dict[str, Any]:
        """Entries of `summary.json`."""
        return {
            "members": {name: found.to_json() for name, found in self.members.items()},
            **({} if self.mean is None else {"ensemble": self.mean.to_json()}),
            **({} if self.scores is None else {"scores": {"accuracy": self.scores.to_json()}}),
        }


def agreement(margins: Tensor) -> Tensor:
    """`(N,)` 1 where a margin is positive, 1/2 where it is 0, and else 0."""
    return (margins.double().sign() + 1) / 2


def share(values: Tensor) -> Measurement:
    """The mean of values `(N,)` in [0, 1], with Wilson's interval."""
    return bounded_interval(estimate(float(values.mean()), values), CONFIDENCE, 0.0, 1.0)


def _bins(margins: Tensor) -> list[Bin]:
    probability = margins.double().abs().sigmoid()
    place = ((probability - 0.5) * 2 * BINS).long().clamp(0, BINS - 1)
    found = []
    for number in range(BINS):
        members = place == number
        if int(members.sum()) >= FEWEST:
            observed = share(agreement(margins[members]))
            found.append(Bin(float(probability[members].mean()), observed))
    return found
