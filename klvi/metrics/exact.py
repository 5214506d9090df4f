"""Exact values of the metrics, where all sequences can be listed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from klvi.metrics.catalogue import METRICS, metrics_of
from klvi.metrics.enumeration import Enumeration, Listed
from klvi.metrics.measurement import Unavailable
from klvi.metrics.metric import MetricSpec, missing_score, naming_metric, no_score, reported

Exact = Mapping[str, float | Unavailable]
NORMALISATION_TOLERANCE = 1e-3


def exact_metrics(
    sequences: Enumeration,
    log_policy: Tensor,
    log_prior: Tensor,
    log_target: Tensor,
    scores: Mapping[str, Tensor],
    *,
    beta: float,
    n: int,
    n_prior: int = 0,
    tilt: float = 0.0,
    pass_k: Sequence[int] = (),
    no_target: str | None = None,
) -> dict[str, float | Unavailable]:
    """The value that each `eval/…` metric estimates, and the target's own.

    `eval/ess`, `eval/duplicates` and `eval/distinct_*` depend on the number of samples: they are
    given for `n` of the policy and `n_prior` of the prior. distinct-n is the ratio of the expected
    number of types to that of n-grams.

    Args:
        sequences: all S sequences.
        log_policy: `(S,)` log π(x), nats per sequence.
        log_prior: `(S,)` log π0(x).
        log_target: `(S,)` log P(x), unnormalised; -inf where the target excludes x.
        scores: `(S,)` each, by name.
        beta: temperature, for `eval/penalised_reward_std`.
        n: number of samples of the policy.
        n_prior: number of samples of the prior.
        tilt: nats per unit of gold of gold's own posterior: see `klvi.metrics.split`.
        pass_k: the numbers of samples k for which pass@k is wanted.
        no_target: why log P is unknown; None where it is known.

    Raises:
        ValueError: the policy's or the prior's probabilities do not sum to 1.
    """
    listed = Listed(
        sequences=sequences,
        log_policy=log_policy.cpu().double(),
        log_prior=log_prior.cpu().double(),
        log_target=log_target.cpu().double(),
        scores={name: values.cpu().double() for name, values in scores.items()},
        beta=beta,
        n=n,
        n_prior=n_prior,
        tilt=tilt,
    )
    for name, values in {"policy": listed.log_policy, "prior": listed.log_prior}.items():
        total = float(values.exp().sum())
        if abs(total - 1) > NORMALISATION_TOLERANCE:
            raise ValueError(f"the {name}'s probabilities sum to {total:.6g} over all sequences")
    found: dict[str, float | Unavailable] = {}
    for spec in metrics_of(scores, pass_k).values():
        if not reported(spec, scores):
            continue
        with naming_metric(spec):
            unknown = no_target is not None and "target" in spec.needs
            found[spec.name] = Unavailable(str(no_target)) if unknown else _value(spec, listed)
    return found


def _value(spec: MetricSpec, listed: Listed) -> float | Unavailable:
    if spec.exact is None:
        return Unavailable("it has no closed form at a finite number of samples")
    missing = missing_score(spec, listed.scores)
    if missing is not None:
        return Unavailable(no_score(missing))
    if "support" in spec.needs and listed.outside > 0:
        return Unavailable(
            f"infinite: probability {listed.outside:.3g} lies outside of the target's support"
        )
    value = spec.exact(listed)
    if isinstance(value, Unavailable) or math.isfinite(value):
        return value
    return Unavailable(
        f"beyond the range of 64-bit numbers at beta={listed.beta:g} and these rewards"
    )


def averaged(contexts: Sequence[Exact]) -> Exact:
    """The mean of each metric over contexts; unavailable where one of them has none."""
    found: dict[str, float | Unavailable] = {}
    for name in contexts[0]:
        values = [values[name] for values in contexts]
        numbers = [value for value in values if not isinstance(value, Unavailable)]
        if len(numbers) < len(values):
            found[name] = next(value for value in values if isinstance(value, Unavailable))
        elif name in METRICS and METRICS[name].geometric:
            found[name] = math.exp(math.fsum(map(math.log, numbers)) / len(numbers))
        else:
            found[name] = math.fsum(numbers) / len(numbers)
    return found
