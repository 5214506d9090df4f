"""Every metric that klvi reports, declared once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import entry_points

from klvi.metrics import enumeration as exact
from klvi.metrics import estimators, importance, text
from klvi.metrics.intervals import Estimate
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.metrics.metric import (
    WEIGHING,
    Drawn,
    MetricSpec,
    ess_interval,
    exponential_interval,
    kl_interval,
    kl_prior_interval,
    nats_interval,
    penalised_interval,
    score_interval,
    tokens_interval,
    unit_interval,
    variation_interval,
)
from klvi.metrics.of_target import OF_THE_TARGET
from klvi.metrics.scores import mean_of, score_specs
from klvi.metrics.split import GOLD
from klvi.terminal import tell

GROUP = "klvi.metrics"
NATS, TOKENS, SHARE = "nats per sequence", "tokens", "share"
DENSITY = frozenset({"density"})
WEIGHTS = WEIGHING | {"target", "potential"}
ENUMERATION = frozenset({"enumeration"})


def _distinct(order: int) -> MetricSpec:
    def estimate(drawn: Drawn) -> Estimate | Unavailable:
        found = text.distinct(drawn.grams[order - 1], drawn.sampling.units)
        return found or Unavailable(f"no sample has {order} tokens")

    return MetricSpec(
        name=f"eval/distinct_{order}",
        unit=SHARE,
        group="Diversity",
        meaning=f"unique {f'{order}-grams' if order > 1 else 'tokens'}",
        exact=lambda listed: exact.distinct(listed, order),
        estimate=estimate,
        interval=unit_interval,
        needs=frozenset({"equal weights"}),
    )


def _repetition(order: int) -> MetricSpec:
    return MetricSpec(
        name=f"eval/repetition_{order}",
        unit=SHARE,
        group="Repetition",
        meaning="within a sample",
        exact=lambda listed: exact.repetition(listed, order),
        estimate=lambda d: estimators.bounded_mean(text.repetition(d.grams[order - 1]), d.sampling),
        interval=unit_interval,
        bounded=True,
        column="repetition" if order == text.ORDERS[1] else None,
        smaller=True,
    )


AGAINST_THE_PRIOR = (
    MetricSpec(
        name="eval/reward",
        unit="the reward's",
        group="Reward",
        meaning="mean",
        exact=lambda listed: float(listed.policy @ listed.scores["reward"]),
        estimate=lambda d: estimators.bounded_mean(d.score("reward"), d.sampling),
        interval=score_interval("reward"),
        needs=frozenset({"score/reward"}),
        numeric=True,
        bounded=True,
        column="reward",
        update="objective/scores",
    ),
    MetricSpec(
        name="eval/kl_prior",
        unit=NATS,
        group="Against the prior",
        meaning="KL(π‖π0), nats",
        exact=lambda listed: listed.mean(listed.log_policy - listed.log_prior),
        estimate=lambda d: estimators.kl_prior(d.log_density, d.log_prior, d.kl, d.sampling),
        interval=kl_prior_interval,
        needs=DENSITY,
        numeric=True,
        column="KL(π‖π0)",
        update="objective/kl",
        smaller=True,
    ),
    MetricSpec(
        name="eval/perplexity_prior",
        unit="perplexity per token",
        group="Against the prior",
        meaning="under π0",
        exact=exact.perplexity_prior,
        estimate=lambda d: estimators.log_perplexity(d.log_prior, d.lengths.double(), d.sampling),
        interval=exponential_interval,
        numeric=True,
        geometric=True,
        smaller=True,
    ),
)


AGAINST_THE_TARGET = (
    MetricSpec(
        name="eval/kl_target_reverse",
        unit=NATS,
        group="Against the target",
        meaning="KL(π‖p), nats",
        exact=exact.kl_reverse,
        weighted=importance.kl_reverse,
        interval=kl_interval,
        needs=WEIGHTS | {"log_z", "support"},
        column="KL(π‖p)",
        smaller=True,
    ),
    MetricSpec(
        name="eval/kl_target_forward",
        unit=NATS,
        group="Against the target",
        meaning="KL(p‖π), nats",
        exact=exact.kl_forward,
        weighted=importance.kl_forward,
        interval=kl_interval,
        needs=WEIGHTS | {"log_z"},
        column="KL(p‖π)",
        smaller=True,
    ),
    MetricSpec(
        name="eval/tv_target",
        unit="probability",
        group="Against the target",
        meaning="TV(π, p)",
        exact=lambda listed: 0.5 * float((listed.policy - listed.target).abs().sum()),
        weighted=importance.total_variation,
        interval=variation_interval,
        needs=WEIGHTS | {"log_z"},
        smaller=True,
    ),
    MetricSpec(
        name="eval/log_z",
        unit="nats",
        group="Against the target",
        meaning="nats",
        exact=lambda listed: listed.log_z,
        weighted=importance.log_z,
        interval=nats_interval,
        needs=WEIGHTS | {"log_z"},
    ),
    MetricSpec(
        name="eval/log_z_lower",
        unit="nats",
        group="Against the target",
        meaning="ELBO, nats",
        exact=lambda listed: listed.log_z - exact.kl_reverse(listed),
        estimate=lambda d: estimators.mean(
            d.log_target - d.log_density_sequence, sampling=d.sampling
        ),
        weighted=importance.log_z_lower,
        interval=nats_interval,
        needs=DENSITY | {"target", "potential", "support"},
    ),
    MetricSpec(
        name="eval/log_z_upper",
        unit="nats",
        group="Against the target",
        meaning="upper bound, nats",
        exact=lambda listed: listed.log_z + exact.kl_forward(listed),
        weighted=importance.log_z_upper,
        interval=nats_interval,
        needs=WEIGHTS | {"log_z"},
        smaller=True,
    ),
    MetricSpec(
        name="eval/penalised_reward_std",
        unit="the reward's",
        group="Against the target",
        meaning="0 at the target",
        exact=exact.penalised_reward_std,
        estimate=lambda d: estimators.standard_deviation(
            estimators.penalised_reward(d.log_density_sequence, d.log_target, d.beta), d.sampling
        ),
        interval=penalised_interval,
        needs=DENSITY | {"target", "support"},
        numeric=True,
        smaller=True,
    ),
    MetricSpec(
        name="eval/ess",
        unit="samples",
        group="Against the target",
        meaning="effective samples",
        exact=exact.effective_sample_size,
        weighted=importance.effective_sample_size,
        interval=ess_interval,
        needs=WEIGHTS,
    ),
)


OF_TEXTS = (
    MetricSpec(
        name="eval/entropy",
        unit=NATS,
        group="Diversity",
        meaning=NATS,
        exact=exact.entropy,
        estimate=lambda d: estimators.entropy(d.log_density, d.entropy, d.sampling),
        needs=DENSITY,
        numeric=True,
        column="entropy",
        update="objective/entropy",
    ),
    MetricSpec(
        name="eval/entropy_token",
        unit="nats per token",
        group="Diversity",
        meaning="nats per token",
        exact=lambda listed: exact.entropy(listed) / exact.length(listed),
        estimate=lambda d: estimators.entropy_token(
            d.log_density, d.lengths.double(), d.entropy, d.sampling
        ),
        needs=DENSITY,
        numeric=True,
    ),
    *map(_distinct, text.ORDERS),
    MetricSpec(
        name="eval/self_bleu_5",
        unit="BLEU",
        group="Diversity",
        meaning="among samples",
        estimate=lambda d: text.self_bleu_estimate(d.tokens, d.content, d.seed, d.sampling.units),
        interval=unit_interval,
        needs=frozenset({"equal weights"}),
        smaller=True,
    ),
    MetricSpec(
        name="eval/duplicates",
        unit=SHARE,
        group="Diversity",
        meaning="among samples",
        exact=exact.duplicates,
        estimate=lambda d: text.duplicates(
            text.sequence_ids(d.tokens, d.lengths), d.sampling.units
        ),
        interval=unit_interval,
        needs=frozenset({"equal weights"}),
        smaller=True,
    ),
    *map(_repetition, text.ORDERS[1:]),
    MetricSpec(
        name="eval/longest_run",
        unit=TOKENS,
        group="Repetition",
        meaning="tokens in a row",
        exact=exact.longest_run,
        estimate=lambda d: estimators.bounded_mean(
            text.longest_run(d.tokens, d.content), d.sampling
        ),
        interval=tokens_interval(0.0),
        bounded=True,
        smaller=True,
    ),
    MetricSpec(
        name="eval/mentions",
        unit="mentions",
        group="Repetition",
        meaning="of the text",
        exact=lambda listed: float(listed.policy @ listed.scores["mentions"]),
        estimate=lambda d: estimators.bounded_mean(d.score("mentions"), d.sampling),
        interval=tokens_interval(0.0),
        needs=frozenset({"score/mentions"}),
        bounded=True,
        optional=True,
    ),
    MetricSpec(
        name="eval/length",
        unit=TOKENS,
        group="Length",
        meaning="tokens",
        exact=exact.length,
        estimate=lambda d: estimators.bounded_mean(d.lengths.double(), d.sampling),
        interval=tokens_interval(1.0),
        bounded=True,
    ),
    MetricSpec(
        name="eval/eos",
        unit=SHARE,
        group="Length",
        meaning="share that ends",
        exact=lambda listed: float(listed.policy @ listed.sequences.ended.double()),
        estimate=lambda d: estimators.bounded_mean(d.ended.double(), d.sampling),
        interval=unit_interval,
        bounded=True,
    ),
)


BY_ENUMERATION = (
    MetricSpec(
        name="policy/largest_probability",
        unit="probability",
        group="Policy",
        meaning="of a sequence",
        exact=lambda listed: float(listed.policy.max()),
        needs=ENUMERATION,
    ),
)


COST = (
    MetricSpec(
        name="eval/cost_tokens",
        unit="model tokens per sample",
        group="Cost",
        meaning="tokens per sample",
        estimate=lambda d: Estimate(d.cost_tokens, 0.0, len(d.samples), 1.0),
        # What this draw took is known, and no estimate.
        interval=lambda found, _: Measurement(found.value, found.value, found.value, found.n),
        smaller=True,
    ),
)


def _installed() -> Iterator[MetricSpec]:
    """Those of installed packages: entry points of `klvi.metrics`, each a MetricSpec or its maker.

    One that cannot be loaded costs a line on the standard error, and nothing else.
    """
    for entry in entry_points(group=GROUP):
        try:
            loaded = entry.load()
            spec = loaded if isinstance(loaded, MetricSpec) else loaded()
            if not isinstance(spec, MetricSpec):
                raise TypeError(f"it gives a {type(spec).__name__}, not a MetricSpec")
        except Exception as error:  # another package's code must not end a run
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            tell(f"warning: metric {entry.name} ({entry.value}) is left out: {reason}")
            continue
        yield spec


class Catalogue(Mapping[str, MetricSpec]):
    """Every metric by its name: klvi's own, and those of installed packages."""

    @cached_property
    def _specs(self) -> dict[str, MetricSpec]:
        own = (
            *AGAINST_THE_PRIOR,
            *AGAINST_THE_TARGET,
            *OF_THE_TARGET,
            *OF_TEXTS,
            *COST,
            *BY_ENUMERATION,
        )
        specs = {spec.name: spec for spec in own}
        for spec in _installed():
            if spec.name in specs:
                tell(
                    f"warning: metric {spec.name} of another package is left out: the name is taken"
                )
            else:
                specs[spec.name] = spec
        return specs

    def columns(self, *, gold: bool) -> list[MetricSpec]:
        """Those with a column in a run's lines and a sweep's table, `gold`'s after the reward's."""
        found = [spec for spec in self.values() if spec.column]
        return [*found[:1], *([mean_of(GOLD)] if gold else []), *found[1:]]

    def __getitem__(self, name: str) -> MetricSpec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


METRICS = Catalogue()


def metrics_of(scores: Iterable[str], pass_k: Sequence[int] = ()) -> dict[str, MetricSpec]:
    """The metrics of samples with these scores, by name: the catalogue's, and the scores' own."""
    further = {spec.name: spec for spec in score_specs(scores, pass_k)}
    return {**METRICS, **{name: spec for name, spec in further.items() if name not in METRICS}}
