"""The metrics that a set of samples has beside the catalogue's: of its further scores, and pass@k.

Samples may have any number of scores, by names that only a run knows: `reward/PART`, parts of the
reward; `feature/NAME`; `gold` with its own parts; and what else a target asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from klvi.metrics import estimators, importance, passing, split
from klvi.metrics.metric import SCORE, MetricSpec, score_interval, target_needs
from klvi.metrics.split import GOLD

REWARD = "reward"
# Scores whose means are metrics of the catalogue.
OWN = {REWARD, "mentions"}
# What the names of metrics of further scores begin with, and the heading that these stand under.
HEADINGS = {"eval/score/": "Reward", "eval/feature/": "Features", "eval/gold": "Gold"}


def metric_name(score: str) -> str:
    """The metric that a score's mean is: `eval/score/fluent` of `reward/fluent`."""
    part = score.removeprefix(f"{REWARD}/")
    kept = score == GOLD or score.startswith(("feature/", f"{GOLD}/"))
    return f"eval/{score}" if kept else f"eval/score/{part}"


def heading(metric: str) -> str | None:
    """The heading of a further score's metric; None for any other metric."""
    return next((group for start, group in HEADINGS.items() if metric.startswith(start)), None)


def shown(metric: str) -> tuple[str, str] | None:
    """The heading and the meaning of a metric beside the catalogue's; None for an unknown one."""
    known = next((spec for spec in OF_GOLD if spec.name == metric), None)
    if known is not None:
        return known.group, known.meaning
    if metric.startswith(passing.PREFIX):
        return "Reward", passing.meaning(metric.removeprefix(passing.PREFIX))
    group = heading(metric)
    return None if group is None else (group, "mean")


def score_specs(scores: Iterable[str], pass_k: Sequence[int] = ()) -> Iterator[MetricSpec]:
    """The metrics of samples with these scores, beside those of the catalogue.

    Args:
        pass_k: the numbers of samples k for which pass@k is wanted.
    """
    scores = list(scores)
    yield from (mean_of(score) for score in scores if score not in OWN)
    yield from map(passing.pass_at, pass_k)
    if GOLD in scores:
        yield from OF_GOLD


def mean_of(score: str) -> MetricSpec:
    """The metric that a further score's mean is."""
    name = metric_name(score)
    return MetricSpec(
        name=name,
        unit="the score's",
        group=heading(name) or "Reward",
        meaning="mean",
        exact=lambda listed: float(listed.policy @ listed.scores[score]),
        estimate=lambda d: estimators.bounded_mean(d.score(score), d.sampling),
        interval=score_interval(score),
        needs=frozenset({f"{SCORE}{score}"}),
        numeric=True,
        bounded=True,
        column="gold" if score == GOLD else None,
    )


BEST = target_needs(f"{SCORE}{GOLD}") | {"gold_best"}
OF_GOLD = (
    MetricSpec(
        name="target/gold",
        unit="gold's",
        group="Gold",
        meaning="E_p",
        exact=lambda listed: float(listed.target @ listed.scores[GOLD]),
        weighted=lambda mix: importance.target_score(mix, GOLD),
        interval=score_interval(GOLD),
        needs=target_needs(f"{SCORE}{GOLD}"),
        of_target=True,
    ),
    MetricSpec(
        name="target/gold_best",
        unit="gold's",
        group="Gold",
        meaning="g*, best at that KL",
        exact=split.exact_gold_best,
        weighted=split.gold_best,
        interval=split.gold_interval,
        needs=BEST,
        of_target=True,
    ),
    MetricSpec(
        name="eval/misspecified",
        unit="gold's",
        group="Gold",
        meaning="g* − E_p",
        exact=split.exact_misspecified,
        weighted=split.misspecified,
        interval=split.misspecified_interval,
        needs=BEST,
        of_target=True,
    ),
    MetricSpec(
        name="eval/badly_approximated",
        unit="gold's",
        group="Gold",
        meaning="E_p − E_π",
        exact=split.exact_badly_approximated,
        weighted=split.badly_approximated,
        interval=split.gold_interval,
        needs=target_needs(f"{SCORE}{GOLD}"),
        smaller=True,
    ),
)
