"""Preferences: pairs of completions of one prompt, of which one was chosen, and their file.

A line of the file is a JSON object as TRL's trainers take it: `prompt` (may be absent), `chosen`
and `rejected`; klvi adds `score_chosen` and `score_rejected` where it knows the rewards.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from klvi.errors import UserError
from klvi.files import disk_problem, read_text, to_json

FIELDS = ("prompt", "chosen", "rejected")
SCORES = ("score_chosen", "score_rejected")


@dataclass(frozen=True)
class Pair:
    """Two completions of a prompt.

    Attributes:
        scores: of what was chosen and what was rejected, by the reward behind the labels; None
            where the file does not tell.
    """

    prompt: str
    chosen: str
    rejected: str
    scores: tuple[float, float] | None = None

    def to_json(self) -> str:
        """A line of the file."""
        values: dict[str, Any] = dict(
            zip(FIELDS, (self.prompt, self.chosen, self.rejected), strict=True)
        )
        return to_json(values | dict(zip(SCORES, self.scores or (), strict=False)))


def preferred(margins: Tensor, temperature: float) -> Tensor:
    """`(N,)` probability that the first of two completions is chosen.

    σ((r_a − r_b)/τ), of `margins` r_a − r_b, in units of the reward (Bradley and Terry 1952). At
    τ = 0 it is 1 where the first has the larger reward, and 1/2 where they are equal.
    """
    margins = margins.double()
    if temperature == 0:
        return (margins.sign() + 1) / 2
    return (margins / temperature).sigmoid()


def bayes_rate(margins: Tensor, temperature: float) -> float:
    """The share of labels that the reward itself predicts on average: E[max(P, 1 − P)].

    No model predicts more of the labels of these pairs, whose rewards differ by `margins` `(N,)`.
    """
    return float(preferred(margins.abs(), temperature).mean())


def read_pairs(path: str) -> list[Pair]:
    """The pairs of a file.

    Raises UserError, with the line, for what is no pair, and for a file without any.
    """
    try:
        text = read_text(Path(path).expanduser().resolve())
    except FileNotFoundError as error:
        raise UserError(f"data={path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"data={path}: is not UTF-8 text (byte {error.start}); give JSON lines"
        ) from error
    except OSError as error:
        raise UserError(f"data={disk_problem(error, Path(path))}") from error
    # `splitlines` would also part a text at its form feeds and Unicode separators.
    lines = [(n, line) for n, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1)]
    pairs = [_pair(f"data={path}:{n}", line) for n, line in lines if line.strip()]
    if not pairs:
        raise UserError(
            f"data={path}: is empty; give a JSON object with chosen and rejected a line"
        )
    return pairs


def _pair(place: str, line: str) -> Pair:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise UserError(
            f"{place}: not JSON ({reason}); write an object with prompt, chosen and rejected a line"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{place}: not a JSON object with prompt, chosen and rejected")
    prompt, chosen, rejected = (_text(place, values, name) for name in FIELDS)
    if chosen == rejected:
        raise UserError(f"{place}: chosen and rejected are the same text; leave the pair out")
    first, second = (_score(place, values, name) for name in SCORES)
    known = None if first is None or second is None else (first, second)
    return Pair(prompt, chosen, rejected, known)


def _score(place: str, values: dict[str, Any], name: str) -> float | None:
    value = values.get(name)
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UserError(
            f"{place}: {name} is {json.dumps(value):.40}, not a finite number; leave it out"
        )
    return number


def _text(place: str, values: dict[str, Any], name: str) -> str:
    value = values.get(name, "" if name == "prompt" else None)
    if value is None:
        raise UserError(f"{place}: the pair has no {name}; add it, or leave the pair out")
    if not isinstance(value, str):
        what = "a list of messages" if isinstance(value, list) else f"a {type(value).__name__}"
        raise UserError(f"{place}: {name} is {what}, not a text; lay conversations out as text")
    return value


def margins_of(pairs: Sequence[Pair]) -> Tensor | None:
    """`(N,)` score of what was chosen less that of what was rejected; None unless all have them."""
    known = [pair.scores for pair in pairs if pair.scores is not None]
    if len(known) < len(pairs):
        return None
    return torch.tensor([chosen - rejected for chosen, rejected in known], dtype=torch.float64)
