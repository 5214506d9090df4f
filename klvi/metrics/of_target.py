"""The target's own numbers, whatever is measured against it: by importance sampling, and exact."""

from __future__ import annotations

from klvi.metrics import enumeration as exact
from klvi.metrics import importance
from klvi.metrics.metric import MetricSpec, score_interval, target_interval, target_needs

NATS = "nats per sequence"
OF_THE_TARGET = (
    MetricSpec(
        name="target/reward",
        unit="the reward's",
        group="Target",
        meaning="mean",
        exact=lambda listed: float(listed.target @ listed.scores["reward"]),
        weighted=lambda mix: importance.target_score(mix, "reward"),
        interval=score_interval("reward"),
        needs=target_needs("score/reward"),
        of_target=True,
    ),
    MetricSpec(
        name="target/kl_prior",
        unit=NATS,
        group="Target",
        meaning="KL(p‖π0), nats",
        exact=lambda listed: listed.target_mean(listed.log_density - listed.log_prior),
        weighted=importance.target_kl_prior,
        interval=target_interval,
        needs=target_needs(),
        of_target=True,
    ),
    MetricSpec(
        name="target/log_chi2",
        unit="nats",
        group="Target",
        meaning="log(1+χ²(p‖π0))",
        exact=exact.log_chi2,
        weighted=importance.log_chi2,
        interval=target_interval,
        needs=target_needs(),
        of_target=True,
    ),
    MetricSpec(
        name="target/entropy",
        unit=NATS,
        group="Target",
        meaning=NATS,
        exact=lambda listed: -listed.target_mean(listed.log_density),
        weighted=importance.target_entropy,
        interval=target_interval,
        needs=target_needs(),
        of_target=True,
    ),
)
