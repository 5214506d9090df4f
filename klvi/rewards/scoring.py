"""Scores that can be relied on: one finite number per completion, or an error that says why not."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.rewards.base import Reward

LONGEST_QUOTE = 60


class RewardError(Exception):
    """A reward that broke its contract: the message names the reward and what it did."""


def score(
    reward: Reward, texts: Sequence[str], contexts: Sequence[Context], *, update: int
) -> Tensor:
    """The checked scores `(N,)`, float64 on the CPU, of N completions.

    Raises `UserError`, naming the reward, the sample and the update, where the reward raises or
    returns anything but N finite numbers; the reward's own exception is the cause.
    """
    try:
        return evaluate(reward, texts, contexts)
    except RewardError as failure:
        raise UserError(f"{failure} (update {update})") from failure.__cause__ or failure


def evaluate(
    reward: Reward, texts: Sequence[str], contexts: Sequence[Context], name: str | None = None
) -> Tensor:
    """As `score`, for a reward that goes by `name` inside another; raises `RewardError`."""
    name = name or reward.name
    try:
        values: object = reward(texts, contexts)
    except RewardError:
        raise
    except Exception as error:  # whatever a user's function raises, the line must name it
        raise RewardError(f"reward {name} raised {_describe(error)}") from error
    return _check(name, values, texts)


def _check(name: str, values: object, texts: Sequence[str]) -> Tensor:
    if hasattr(values, "tolist"):  # tensors, arrays and series
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise RewardError(f"reward {name} returned {kind}, not a list of {len(texts)} numbers")
    if len(values) != len(texts):
        raise RewardError(f"reward {name} returned {len(values)} values for {len(texts)} samples")
    numbers = [_number(value) for value in values]
    scores = torch.tensor([0.0 if n is None else n for n in numbers], dtype=torch.float64)
    if None not in numbers and bool(scores.isfinite().all()):
        return scores
    for index, number in enumerate(numbers):
        if number is None or not scores[index].isfinite():
            shown = f"the non-number {_shorten(values[index])}" if number is None else str(number)
            sample = f"sample {index}: {_shorten(texts[index])}"
            raise RewardError(f"reward {name} returned {shown} for {sample}")
    return scores


def _number(value: object) -> float | None:
    if isinstance(value, str | bytes):  # float("1") would succeed
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # what cannot be converted is refused here
    except (TypeError, ValueError, OverflowError):
        return None


def _describe(error: Exception) -> str:
    message = " ".join(str(error).split())
    described = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    return f"{described} at {frames[-1].filename}:{frames[-1].lineno}" if frames else described


def _shorten(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= LONGEST_QUOTE else f"{shown[: LONGEST_QUOTE - 1]}…"
