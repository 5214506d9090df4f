"""What is declared of a metric, in one place for estimators, exact values, tables and trackers."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from klvi.metrics import text
from klvi.metrics.enumeration import Listed
from klvi.metrics.importance import Mixture
from klvi.metrics.intervals import ROOM, Estimate, bounded_interval, interval, with_room
from klvi.metrics.jackknife import GROUPS, kept
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.metrics.text import NGrams
from klvi.samples import Samples


@dataclass(frozen=True)
class Scope:
    """What an interval depends on beside the estimate.

    Attributes:
        confidence: of the interval.
        beta: units of the reward per nat.
        width: tokens that a completion has at most.
        rewards: between which a reward is taken to lie.
        ess_floor: effective sample size below which weights are not trusted.
    """

    confidence: float
    beta: float
    width: int
    rewards: tuple[float, float]
    ess_floor: float


@dataclass(frozen=True)
class Drawn:
    """N scored samples of the policy for one context, on the CPU in float64.

    Attributes:
        samples: the samples.
        log_target: `(N,)` log P, nats per sequence.
        beta: units of the reward per nat.
        seed: of groupings behind an interval.
    """

    samples: Samples
    log_target: Tensor
    beta: float
    seed: int

    def without(self, group: int) -> Drawn:
        """Those that are not in one of the jackknife's groups."""
        return self._parts[group]

    @cached_property
    def _parts(self) -> list[Drawn]:
        rows = [kept(len(self.samples), group) for group in range(GROUPS)]
        return [
            replace(
                self,
                samples=self.samples.select(each.to(self.samples.lengths.device)),
                log_target=self.log_target[each],
            )
            for each in rows
        ]

    @cached_property
    def log_policy(self) -> Tensor:
        """`(N, T)` nats per token."""
        return self.samples.log_policy.cpu().double()

    @cached_property
    def log_prior(self) -> Tensor:
        """`(N, T)` nats per token."""
        return self.samples.log_prior.cpu().double()

    @property
    def entropy(self) -> Tensor | None:
        """`(N, T)` of the next token, nats."""
        return None if self.samples.entropy is None else self.samples.entropy.cpu().double()

    @property
    def kl(self) -> Tensor | None:
        """`(N, T)` of the next token's distributions, nats."""
        return None if self.samples.kl is None else self.samples.kl.cpu().double()

    @property
    def reward(self) -> Tensor:
        """`(N,)`."""
        return self.samples.reward.cpu().double()

    @cached_property
    def tokens(self) -> Tensor:
        """`(N, T)`."""
        return self.samples.tokens.cpu()

    @cached_property
    def lengths(self) -> Tensor:
        """`(N,)`, the end-of-sequence token included."""
        return self.samples.lengths.cpu()

    @cached_property
    def ended(self) -> Tensor:
        """`(N,)` bool."""
        return self.samples.ended.cpu()

    @property
    def content(self) -> Tensor:
        """`(N,)` lengths without the end-of-sequence token."""
        return self.lengths - self.ended.long()

    @cached_property
    def grams(self) -> list[NGrams]:
        """The n-grams of each order."""
        return text.ngrams(self.tokens, self.content, max(text.ORDERS))


@dataclass(frozen=True)
class MetricSpec:
    """A metric: its name, its estimators, its exact value, and how it is shown.

    Attributes:
        name: the entry in records and summaries.
        unit: what its numbers are in.
        group: the heading that it stands under in a table, and `meaning` what stands beside it.
        exact: its value where all sequences are listed.
        estimate: from the policy's samples of one context; None where there is no estimator.
        weighted: from weighted samples of policy and prior, of one context, in place of `estimate`.
        interval: of the mean over contexts.
        numeric: whether it is a smooth function of means, whose bias the jackknife takes off.
        bounded: whether it is the mean of a variable between two bounds.
        needs_z: whether it needs Z, and so weights that can be trusted.
        infinite_outside: whether it is infinite where the policy reaches what the target excludes.
        geometric: whether it is the exponential of a mean, of which contexts are averaged.
        column: its heading in a run's lines and in a sweep's table; None for none.
        update: the entry of an update's record that stands for it between evaluations.
    """

    name: str
    unit: str
    group: str
    meaning: str
    exact: Callable[[Listed], float | Unavailable]
    estimate: Callable[[Drawn], Estimate | Unavailable] | None = None
    weighted: Callable[[Mixture], Estimate] | None = None
    interval: Callable[[Estimate, Scope], Measurement] = lambda found, scope: interval(
        found, scope.confidence, low=0.0
    )
    numeric: bool = False
    bounded: bool = False
    needs_z: bool = False
    infinite_outside: bool = False
    geometric: bool = False
    column: str | None = None
    update: str | None = None


def unit_interval(found: Estimate, scope: Scope) -> Measurement:
    """Of a share."""
    return bounded_interval(found, scope.confidence, 0.0, 1.0)


def reward_interval(found: Estimate, scope: Scope) -> Measurement:
    """Of a mean reward."""
    return bounded_interval(found, scope.confidence, *scope.rewards)


def tokens_interval(low: float) -> Callable[[Estimate, Scope], Measurement]:
    """Of a mean number of tokens from `low` to the width."""
    return lambda found, scope: bounded_interval(found, scope.confidence, low, float(scope.width))


def kl_prior_interval(found: Estimate, scope: Scope) -> Measurement:
    """Of a KL to the prior; without any difference the policy is the prior."""
    found = with_room(found) if found.value > 0 else found
    return interval(found, scope.confidence, low=0.0)


def kl_interval(found: Estimate, scope: Scope) -> Measurement:
    """Of a KL to the target."""
    return interval(with_room(found), scope.confidence, 0.0)


def variation_interval(found: Estimate, scope: Scope) -> Measurement:
    """Of a total variation."""
    return interval(with_room(found), scope.confidence, 0.0, 1.0)


def nats_interval(found: Estimate, scope: Scope) -> Measurement:
    """Of a number of nats of either sign."""
    return interval(with_room(found), scope.confidence)


def ess_interval(found: Estimate, scope: Scope) -> Measurement:
    """Of an effective sample size: below the floor, weights not seen yet may be larger still."""
    measured = interval(found, scope.confidence, 0.0, float(found.n))
    return replace(measured, low=0.0) if found.value < scope.ess_floor else measured


def exponential_interval(found: Estimate, scope: Scope) -> Measurement:
    """Of the exponential of what was estimated, nats."""
    nats = interval(found, scope.confidence)
    value, low, high = map(_exponential, (nats.value, nats.low, nats.high))
    return Measurement(value, low, high, nats.n)


def penalised_interval(found: Estimate, scope: Scope) -> Measurement:
    """Of the penalised reward's standard deviation."""
    measured = interval(found, scope.confidence, low=0.0)
    if not found.carried_by_few:
        return measured
    # As `with_room`: what was not drawn, a nat away, adds β²/N to the variance.
    room = math.sqrt(ROOM / found.size) * scope.beta
    low = math.sqrt(max((measured.low - room) * (measured.low + room), 0.0))
    return replace(measured, low=low, high=math.hypot(measured.high, room))


def _exponential(nats: float) -> float:
    """`exp`, at most the largest that a float holds: two samples give intervals beyond it."""
    return math.exp(min(nats, math.log(sys.float_info.max)))
