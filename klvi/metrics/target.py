"""The metrics that compare policy and target: per prompt, as Z is a prompt's own, then averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from klvi.metrics import importance
from klvi.metrics.availability import Lacking
from klvi.metrics.importance import LogProbabilities, Mixture
from klvi.metrics.intervals import Estimate
from klvi.metrics.jackknife import GROUPS, averaged, debiased, kept
from klvi.metrics.measurement import Measurement, Metric, Unavailable
from klvi.metrics.path import reach
from klvi.metrics.sampling import Sampling
from klvi.samples import Draw, Samples

SAME = 1e-4


# One context's samples of the policy, and of the prior where there are any.
Pair = tuple[LogProbabilities, LogProbabilities | None]


@dataclass(frozen=True)
class Weighing:
    """Importance-weighted samples of each context.

    Attributes:
        pairs: of each context its samples' log-probabilities.
        mixtures: the same, weighted.
        weights: the share of each context.
        titles: how to name each context.
        tilt: that of the mixtures.
    """

    pairs: Sequence[Pair]
    mixtures: Sequence[Mixture]
    weights: Sequence[float]
    titles: Sequence[str]
    tilt: float = 0.0

    @staticmethod
    def of(
        draw: Draw,
        log_target: Tensor,
        prior_samples: Samples | None,
        prior_log_target: Tensor | None,
    ) -> Weighing:
        """Of a draw with a density, together with samples of the prior where they are given.

        The density of what is no policy is unknown at the prior's samples, which are left out.
        """
        samples = draw.samples
        if draw.represents == "policy":
            log_policy = samples.log_policy_sequence.cpu()
        else:
            log_policy = samples.log_drawn.cpu()
        policy = _by_prompt(samples, log_policy, log_policy, log_target)
        prior: dict[int, LogProbabilities] = {}
        if draw.represents == "policy" and prior_samples is not None:
            assert prior_log_target is not None, "they come together"
            log_policy = prior_samples.log_policy_sequence.cpu()
            log_prior = prior_samples.log_prior_sequence.cpu()
            prior = _by_prompt(prior_samples, log_policy, log_prior, prior_log_target)
        names = {context.row: context.title for context in samples.contexts}
        pairs = [(part, prior.get(row)) for row, part in policy.items()]
        return Weighing(
            pairs=pairs,
            mixtures=[importance.mixture(*pair) for pair in pairs],
            weights=[len(part.policy) / len(samples) for part in policy.values()],
            titles=[names[row] for row in policy],
        )

    def lacking(self, floor: float) -> Lacking:
        """Why nothing, or no Z, can be learned from the weights."""
        n = sum(len(mix.log_weight) for mix in self.mixtures)
        found = {}
        if all(_featureless(mix) for mix in self.mixtures):
            found["potential"] = Unavailable(
                f"all {n} samples have the same potential: what the target prefers was not seen"
            )
        refused = self._refusal(floor)
        return found if refused is None else found | {"log_z": refused}

    def _refusal(self, floor: float) -> Unavailable | None:
        """Why weights cannot be trusted: the worst prompt's effective sample size, if too low."""
        sizes = [importance.effective_sample_size(mix).value for mix in self.mixtures]
        worst = sizes.index(min(sizes))
        place = f" for {self.titles[worst]}" if len(sizes) > 1 else ""
        n = len(self.mixtures[worst].log_weight)
        if sizes[worst] == 0:
            return Unavailable(f"none of {n} samples{place} has a positive target probability")
        if sizes[worst] >= floor:
            return None
        prior = self.pairs[worst][1]
        why = "" if prior is None else f"; {reach(prior.target - prior.prior, floor)}"
        return Unavailable(
            f"effective sample size {sizes[worst]:.1f} of {n} samples{place} "
            f"is below the floor of {floor:g}{why}"
        )

    def tilted(self, tilt: float) -> Weighing:
        """The same for another `tilt`."""
        mixtures = [replace(mix, tilt=tilt) for mix in self.mixtures]
        return replace(self, mixtures=mixtures, tilt=tilt)

    def estimate(self, estimator: Callable[[Mixture], Estimate], share: float) -> Estimate:
        """The mean over contexts, which are a `share` of all there are."""
        wholes = each = [estimator(mix) for mix in self.mixtures]
        if len(wholes) > 1:
            triples = zip(wholes, self.mixtures, self._without, strict=True)
            each = [_debiased(estimator, *triple) for triple in triples]
        return averaged(wholes, each, self.weights, share)

    @cached_property
    def _without(self) -> list[list[Mixture]]:
        """Of each context the mixtures without each group; none where a context has few units."""
        groups = [_mixtures_without(pair) for pair in self.pairs]
        return [[replace(mix, tilt=self.tilt) for mix in group] for group in groups]


def _by_prompt(
    samples: Samples, log_policy: Tensor, own: Tensor, log_target: Tensor
) -> dict[int, LogProbabilities]:
    """Each context's samples, drawn from what has the log-density `own` `(N,)` or stands for it."""
    rows: dict[int, list[int]] = {}
    for i, prompt in enumerate(samples.context.tolist()):
        rows.setdefault(prompt, []).append(i)
    log_prior, target = samples.log_prior_sequence.cpu(), log_target.cpu().double()
    drawn = samples.log_density
    gap = torch.zeros_like(own) if drawn is None else drawn.cpu().double() - own
    units = Sampling.of(samples).units
    scores = {name: values.cpu() for name, values in samples.scores.items()}
    whole = LogProbabilities(log_policy, log_prior, target, gap, units, scores)
    return {prompt: whole.select(torch.tensor(chosen)) for prompt, chosen in rows.items()}


def _mixtures_without(drawn: Pair) -> list[Mixture]:
    if min(part.size for part in drawn if part is not None) < 2 * GROUPS:
        return []
    policy, prior = drawn

    def fewer(part: LogProbabilities, group: int) -> LogProbabilities:
        return part.select(kept(len(part.policy), group, part.units))

    return [
        importance.mixture(fewer(policy, group), None if prior is None else fewer(prior, group))
        for group in range(GROUPS)
    ]


def _debiased(
    estimator: Callable[[Mixture], Estimate], whole: Estimate, mix: Mixture, without: list[Mixture]
) -> Estimate:
    """One of several contexts' estimates, without its bias of order 1/n."""
    if not without:
        return whole
    values = [estimator(part).value for part in without]
    # An effective sample size is in samples, of which there are fewer.
    if estimator is importance.effective_sample_size:
        sizes = [len(mix.log_weight) / len(part.log_weight) for part in without]
        values = [size * value for size, value in zip(sizes, values, strict=True)]
    return debiased(whole, values)


def _featureless(mix: Mixture) -> bool:
    """Whether policy and prior coincide on samples that the target does not tell apart."""
    return bool(
        float(mix.log_potential.max()) - float(mix.log_potential.min()) < SAME
        and float(mix.log_weight.max()) - float(mix.log_weight.min()) < SAME
    )


def below_bound(log_z: Metric, bound: float) -> Unavailable | None:
    """Why log Z cannot be what was found: it is known to be larger, by twice the reach."""
    if not isinstance(log_z, Measurement) or 2 * log_z.high - log_z.value >= bound:
        return None
    return Unavailable(
        f"the samples miss part of the target: they give log Z = {log_z.value:.4g}, "
        f"but it is at least {bound:.4g}"
    )


def of_known_z(metrics: Mapping[str, Metric], log_z: float, n: int) -> dict[str, Metric]:
    """The metrics of n samples where log Z, nats, is known: KL(π‖p) = log Z − ELBO then.

    That needs no importance weights, and stands where these are too unequal to be trusted.
    """
    found = {**metrics, "eval/log_z": Measurement(log_z, log_z, log_z, n)}
    lower = metrics["eval/log_z_lower"]
    unknown = isinstance(metrics["eval/kl_target_reverse"], Unavailable)
    if unknown and isinstance(lower, Measurement):
        value, low, high = (max(log_z - x, 0.0) for x in (lower.value, lower.high, lower.low))
        found["eval/kl_target_reverse"] = Measurement(value, low, high, lower.n)
    return found
