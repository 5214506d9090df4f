"""A metric: how often a token is the one before it again."""

from __future__ import annotations

import torch
from torch import Tensor

from klvi.metrics import estimators
from klvi.metrics.metric import MetricSpec, unit_interval


def stutter(tokens: Tensor, lengths: Tensor) -> Tensor:
    """`(N,)` float64: of the tokens `(N, T)` after each sequence's first, the share of repeats.

    `lengths` `(N,)` are without the end-of-sequence token; one token or none has no repeats.
    """
    again = tokens[:, 1:] == tokens[:, :-1]
    inside = torch.arange(1, tokens.shape[1]) < lengths[:, None]
    return (again & inside).sum(1).double() / (lengths - 1).clamp(min=1)


STUTTER = MetricSpec(
    name="eval/stutter",
    unit="share",
    group="Repetition",
    meaning="tokens twice in a row",
    exact=lambda listed: listed.mean(stutter(listed.sequences.tokens, listed.content)),
    estimate=lambda drawn: estimators.bounded_mean(
        stutter(drawn.tokens, drawn.content), drawn.sampling
    ),
    interval=unit_interval,
    bounded=True,
    column="stutter",
)
