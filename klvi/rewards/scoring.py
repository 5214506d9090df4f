"""Scores that can be relied on: one finite number per completion, or an error that says why not."""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from klvi import interruption
from klvi.contexts import Context
from klvi.engine.memory import is_out_of_memory, ran_out
from klvi.errors import RunError, UserError
from klvi.rewards.base import MENTIONS, REPORTED, SCORE_NAME, Reward
from klvi.rewards.process_state import UPDATE
from klvi.samples import Samples
from klvi.terminal import tell

MAX_QUOTE, MAX_MESSAGE = 60, 500


class RewardError(Exception):
    """A reward that broke its contract: the message names the reward and what it did."""


class RewardExitError(RewardError):
    """A reward that would have left the process, by an exit or any other BaseException."""


def score(
    reward: Reward, texts: Sequence[str], contexts: Sequence[Context], *, update: int
) -> Tensor:
    """The checked scores `(N,)`, float64 on the CPU, of N completions: the one that is reported.

    Raises as `named_scores`.
    """
    return named_scores(reward, texts, contexts, update=update)[REPORTED]


def named_scores(
    reward: Reward, texts: Sequence[str], contexts: Sequence[Context], *, update: int
) -> dict[str, Tensor]:
    """The checked scores `(N,)` by name, float64 on the CPU, of N completions; `reward` is first.

    Raises `UserError`, naming the reward, the sample and the update, where the reward raises or
    returns anything but N finite numbers; the reward's own exception is the cause. Where it would
    leave the process, that is a `RunError`, and after a signal an Interruption, whatever the reward
    has made of that.
    """
    token = UPDATE.set(update)
    try:
        return evaluate(reward, texts, contexts)
    except RewardExitError as failure:
        raise RunError(f"{failure} (update {update})") from failure.__cause__
    except RewardError as failure:
        raise UserError(f"{failure} (update {update})") from failure.__cause__ or failure
    finally:
        UPDATE.reset(token)


def scored(samples: Samples, scorers: Mapping[str, Reward], *, update: int) -> Samples:
    """The samples with the checked score of each of `scorers`, by its name; raises as `score`.

    Further scores of a scorer stand beside it, as `scorer/score`, and where the reported one is of
    a text how often each sample has it, as `mentions`.
    """
    scores = {
        name if part == REPORTED else f"{name}/{part}": values
        for name, reward in scorers.items()
        for part, values in named_scores(
            reward, samples.texts, samples.contexts, update=update
        ).items()
    }
    mentions = getattr(scorers.get(REPORTED), MENTIONS, None)
    if mentions is not None:
        scores[MENTIONS] = torch.tensor(mentions(samples.texts), dtype=torch.float64)
    device = samples.lengths.device
    return samples.with_scores({name: values.to(device) for name, values in scores.items()})


def evaluate(
    reward: Reward, texts: Sequence[str], contexts: Sequence[Context], name: str | None = None
) -> dict[str, Tensor]:
    """As `named_scores`, for a reward that goes by `name` inside another; raises `RewardError`."""
    name = name or reward.name
    process = os.getpid()
    try:
        values: object = reward(texts, contexts)
        if os.getpid() != process:
            os._exit(0)
        interruption.check()
        return _named(name, values, texts)
    except BaseException as error:  # whatever a user's function raises, the line must name it
        if os.getpid() != process:
            # A child that the reward has forked: the run is its parent's.
            tell(f"error: reward {name} raised {_describe(error)} in a process of its own")
            os._exit(1)
        cause = interruption.cause_of(error)
        if cause is not None:
            raise cause from error
        if isinstance(error, RewardError | RunError):
            raise
        if is_out_of_memory(error):
            raise ran_out("computing rewards", error) from None
        if isinstance(error, SystemExit):
            raise RewardExitError(f"reward {name} exits: {_describe(error)}") from error
        kind = RewardError if isinstance(error, Exception) else RewardExitError
        raise kind(f"reward {name} raised {_describe(error)}") from error


def _named(name: str, values: object, texts: Sequence[str]) -> dict[str, Tensor]:
    if not isinstance(values, Mapping):
        return {REPORTED: _check(name, values, texts)}
    wrong = [key for key in values if not isinstance(key, str) or not SCORE_NAME.fullmatch(key)]
    if wrong:
        raise RewardError(
            f"reward {name} returned a score named {_shorten(wrong[0])}; name scores by letters, "
            "digits, dots, dashes and underscores"
        )
    if REPORTED not in values:
        named = ", ".join(map(str, values)) or "none"
        raise RewardError(
            f"reward {name} returned several scores ({named}) without {REPORTED!r}, the one that "
            "is aimed at; return it as well"
        )
    names = (REPORTED, *(key for key in values if key != REPORTED))
    return {
        key: _check(name if key == REPORTED else f"{name}[{key!r}]", values[key], texts)
        for key in names
    }


def _check(name: str, values: object, texts: Sequence[str]) -> Tensor:
    shape = getattr(values, "shape", None)
    if isinstance(shape, tuple) and len(shape) > 1:
        raise RewardError(
            f"reward {name} returned values of shape {tuple(shape)}, not ({len(texts)},)"
        )
    if hasattr(values, "tolist"):  # tensors, arrays and series
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes | bytearray):
        type_name = type(values).__name__
        article = "an" if type_name[0] in "aeiou" else "a"
        kind = "nothing" if values is None else f"{article} {type_name}"
        raise RewardError(f"reward {name} returned {kind}, not a list of {len(texts)} numbers")
    if len(values) != len(texts):
        raise RewardError(f"reward {name} returned {len(values)} values for {len(texts)} samples")
    numbers = [_number(value) for value in values]
    for index, number in enumerate(numbers):
        if number is None or not math.isfinite(number):
            shown = f"the non-number {_shorten(values[index])}" if number is None else str(number)
            sample = f"sample {index}: {_shorten(texts[index])}"
            raise RewardError(f"reward {name} returned {shown} for {sample}")
    return torch.tensor(numbers, dtype=torch.float64)


def _number(value: object) -> float | None:
    if isinstance(value, str | bytes):  # float("1") would succeed
        return None
    try:
        # Of an array or a tensor its only element, detached.
        return float(value.item() if hasattr(value, "item") else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def _describe(error: BaseException) -> str:
    try:
        message = " ".join(str(error).split())
    except Exception:  # its own `__str__` fails
        message = ""
    if len(message) > MAX_MESSAGE:
        message = f"{message[: MAX_MESSAGE - 1]}…"
    described = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    return f"{described} at {frames[-1].filename}:{frames[-1].lineno}" if frames else described


def _shorten(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= MAX_QUOTE else f"{shown[: MAX_QUOTE - 1]}…"
