"""What is declared of a metric, in one place for estimators, exact values, tables and trackers."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from torch import Tensor

from klvi.errors import UserError, described
from klvi.metrics import text
from klvi.metrics.enumeration import Listed
from klvi.metrics.importance import Mixture
from klvi.metrics.intervals import ROOM, Estimate, bounded_interval, interval, with_room
from klvi.metrics.jackknife import GROUPS, kept
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.metrics.sampling import Sampling
from klvi.metrics.text import NGrams
from klvi.samples import Samples


@contextmanager
def naming_metric(spec: MetricSpec) -> Iterator[None]:
    """Within, what another package's metric raises is a UserError that names the metric."""
    try:
        yield
    except Exception as error:
        made = spec.estimate or spec.exact or spec.weighted
        if isinstance(error, UserError) or made.__module__.startswith("klvi."):
            raise
        raise UserError(
            f"metric {spec.name} ({made.__module__}): {described(error)}; mend or uninstall its "
            "package"
        ) from error


Represents = Literal["policy", "target", "sampler"]
SCORE = "score/"
# What a metric may need, and what that is.
NEEDS = {
    "density": "the normalised log-density of what the samples represent",
    "proposal": "the log-density of what drew the samples, for importance weights",
    "equal weights": "samples that all weigh the same: a count over a set of them",
    "support": "no sample outside of the target's support, where the metric is infinite",
    "contexts": "several independent samples of each context",
    "target": "a target with a potential",
    "potential": "samples that the target tells apart",
    "log_z": "importance weights that can be trusted",
    "gold_best": "importance weights towards gold's own posterior that can be trusted",
    "enumeration": "all sequences listed",
}
# What importance weights need.
WEIGHING = frozenset({"density", "proposal", "contexts"})


def target_needs(*scores: str) -> frozenset[str]:
    """What the target's own numbers need, beside `score/NAME` of these."""
    return WEIGHING | {"target", "potential", "log_z", *scores}


@dataclass(frozen=True)
class Scope:
    """What an interval depends on beside the estimate.

    Attributes:
        confidence: of the interval.
        beta: units of the reward per nat.
        width: tokens that a completion has at most.
        ranges: between which each score is taken to lie, by its name.
        ess_floor: effective sample size below which weights are not trusted.
    """

    confidence: float
    beta: float
    width: int
    ranges: Mapping[str, tuple[float, float]]
    ess_floor: float


@dataclass(frozen=True)
class Drawn:
    """N scored samples for one context, on the CPU in float64.

    Attributes:
        samples: the samples.
        log_target: `(N,)` log P, nats per sequence.
        beta: units of the reward per nat.
        seed: of groupings behind an interval.
        represents: what they are samples of.
        cost_tokens: model tokens per sample of the whole draw.
    """

    samples: Samples
    log_target: Tensor
    beta: float
    seed: int
    represents: Represents = "policy"
    cost_tokens: float = 0.0

    def without(self, group: int) -> Drawn:
        """Those that are not in one of the jackknife's groups."""
        return self._parts[group]

    @cached_property
    def _parts(self) -> list[Drawn]:
        units = self.sampling.units
        rows = [kept(len(self.samples), group, units) for group in range(GROUPS)]
        return [
            replace(
                self,
                samples=self.samples.select(each.to(self.samples.lengths.device)),
                log_target=self.log_target[each],
            )
            for each in rows
        ]

    @cached_property
    def sampling(self) -> Sampling:
        """Weights and independent units, which every estimator takes."""
        return Sampling.of(self.samples)

    @cached_property
    def log_density(self) -> Tensor:
        """Log-density of what the samples represent, nats.

        That of the policy `(N, T)` per token; that of a sampler `(N,)` per sequence. Asked for by
        metrics that need `density` alone.
        """
        if self.represents == "policy":
            return self.samples.log_policy.cpu().double()
        assert self.samples.log_density is not None, "needs density"
        return self.samples.log_density.cpu().double()

    @property
    def log_density_sequence(self) -> Tensor:
        """`(N,)` the same per sequence."""
        return self.log_density.sum(1) if self.log_density.dim() > 1 else self.log_density

    @cached_property
    def log_prior(self) -> Tensor:
        """`(N, T)` nats per token."""
        return self.samples.log_prior.cpu().double()

    @property
    def entropy(self) -> Tensor | None:
        """`(N, T)` of the policy's next token, nats; None for what the policy did not draw."""
        known = self.samples.entropy
        return None if known is None or self.represents != "policy" else known.cpu().double()

    @property
    def kl(self) -> Tensor | None:
        """`(N, T)` of the next token's distributions, nats; None as `entropy`."""
        known = self.samples.kl
        return None if known is None or self.represents != "policy" else known.cpu().double()

    def score(self, name: str) -> Tensor:
        """`(N,)` float64, asked for by metrics that need `score/NAME` alone."""
        return self.samples.scores[name].cpu().double()

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
        exact: its value where all sequences are listed; None where it has no closed form.
        estimate: from the samples of one context; None where there is no estimator.
        weighted: from importance-weighted samples of policy and prior, of one context, in place of
            `estimate`, which remains for contexts of a single sample.
        interval: of the mean over contexts.
        needs: what has to be known for it: members of `NEEDS`, and `score/NAME` for a score.
        numeric: whether it is a smooth function of means, whose bias the jackknife takes off.
        bounded: whether it is the mean of a variable between two bounds.
        optional: whether it is left out, not unavailable, where the samples lack its score.
        smaller: whether smaller is better, where a run keeps its best policy by it.
        of_target: whether it is the target's own, whatever is measured against it.
        geometric: whether it is the exponential of a mean, of which contexts are averaged.
        column: its heading in a run's lines and in a sweep's table; None for none.
        update: the entry of an update's record that stands for it between evaluations.

    Raises ValueError for a need without a meaning, and for estimators that do not fit the needs.
    """

    name: str
    unit: str
    group: str
    meaning: str
    exact: Callable[[Listed], float | Unavailable] | None = None
    estimate: Callable[[Drawn], Estimate | Unavailable] | None = None
    weighted: Callable[[Mixture], Estimate] | None = None
    interval: Callable[[Estimate, Scope], Measurement] = lambda found, scope: interval(
        found, scope.confidence, low=0.0
    )
    needs: frozenset[str] = frozenset()
    numeric: bool = False
    bounded: bool = False
    optional: bool = False
    smaller: bool = False
    of_target: bool = False
    geometric: bool = False
    column: str | None = None
    update: str | None = None

    def __post_init__(self) -> None:
        unknown = {n for n in self.needs if n not in NEEDS and not n.startswith(SCORE)}
        if unknown:
            raise ValueError(f"metric {self.name}: needs {', '.join(sorted(unknown))}: unknown")
        if self.exact is None and self.estimate is None and self.weighted is None:
            raise ValueError(f"metric {self.name}: neither an estimator nor an exact value")
        if self.estimate is None and self.weighted is None and self.estimated:
            raise ValueError(f"metric {self.name}: without an estimator it needs enumeration")
        required = {"density"} if self.estimate is not None else WEIGHING
        if self.weighted is not None and not required <= self.needs:
            raise ValueError(f"metric {self.name}: importance weights need {sorted(required)}")

    @property
    def estimated(self) -> bool:
        """Whether samples give it; otherwise enumeration alone."""
        return "enumeration" not in self.needs


def missing_score(spec: MetricSpec, scores: Container[str]) -> str | None:
    """The first score that a metric needs and `scores` lack."""
    needed = (need.removeprefix(SCORE) for need in sorted(spec.needs) if need.startswith(SCORE))
    return next((name for name in needed if name not in scores), None)


def reported(spec: MetricSpec, scores: Container[str]) -> bool:
    """Whether a metric is told of samples with these scores, with a value or a reason for none."""
    return not spec.optional or missing_score(spec, scores) is None


def no_score(name: str) -> str:
    """Why a metric that needs a score is unavailable."""
    return f"the samples have no score {name}"


def unit_interval(found: Estimate, scope: Scope) -> Measurement:
    """Of a share."""
    return bounded_interval(found, scope.confidence, 0.0, 1.0)


def score_interval(name: str) -> Callable[[Estimate, Scope], Measurement]:
    """Of the mean of a score."""
    return lambda found, scope: bounded_interval(found, scope.confidence, *scope.ranges[name])


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


def target_interval(found: Estimate, scope: Scope) -> Measurement:
    """Of nats of the target's own, not negative; room is for what all contexts' samples missed."""
    return interval(with_room(replace(found, units=None)), scope.confidence, 0.0)


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
