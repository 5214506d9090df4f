"""The distribution of the texts in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.prompts.files import read_records
from klvi.prompts.schema import FilePrompts
from klvi.randomness import Randomness
from klvi.rewards.base import Reward
from klvi.rewards.python import as_reward
from klvi.samples import Samples
from klvi.schema import Text, check_fields
from klvi.targets.base import Target, checked_beta
from klvi.targets.schema import EmpiricalTarget

FEWEST = 2


class _Texts(FilePrompts):
    field: Text = "text"


@dataclass(frozen=True)
class Empirical(Target):
    """p is whatever the texts of a file were drawn from: the target of supervised MLE.

    p is known by samples alone: there is no log P, and objectives and metrics that need it are
    refused with the reason. What is measured is the mean log π(x) over a share of the texts that
    is held out, nats per sequence; up to the entropy of p that is −KL(p‖π). Which these are
    depends on each text alone, and equal ones are on one side. The reward and `beta` do not enter.

    A file of plain text has a text in each line; JSON lines and tables have a column `text`, and a
    `prompt` that it completes, where there is one.
    """

    name: ClassVar[str] = "empirical"
    reward: Reward
    path: str
    held_out: float = 0.1
    beta: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_beta(self.beta))
        check_fields(EmpiricalTarget, self)
        object.__setattr__(self, "reward", as_reward(self.reward))
        count = len(self.held_out_texts)
        if min(count, len(self.pairs) - count) < FEWEST:
            raise UserError(
                f"target.held_out={self.held_out:g}: of the {len(self.pairs)} different texts in "
                f"{self.path} {count} are held out, and {FEWEST} are needed on either side: choose "
                "another share, or give more texts"
            )

    @cached_property
    def pairs(self) -> list[tuple[Context, str]]:
        """The different texts of the file, each with what it completes, numbered by prompt.

        Raises UserError for a file that is missing, empty or not what it should be.
        """
        try:
            records = read_records(_Texts(name="file", path=self.path, chat={}))
        except UserError as error:
            problems = [problem.replace("prompts.", "target.") for problem in error.problems]
            raise UserError(*problems) from error
        rows: dict[str, int] = {}
        pairs: dict[tuple[str, str], tuple[Context, str]] = {}
        for record in records:
            text, prompt = record.values.get("text"), record.values.get("prompt", "")
            if not isinstance(text, str) or not isinstance(prompt, str) or not text:
                known = ", ".join(record.values) or "none"
                raise UserError(
                    f"{record.place}: needs a text in the field 'text', and in 'prompt' a text or "
                    f'none (it has: {known}); write {{"prompt": "TEXT", "text": "TEXT"}}'
                )
            row = rows.setdefault(prompt, len(rows))
            pairs.setdefault((prompt, text), (Context(row, prompt), text))
        return list(pairs.values())

    @cached_property
    def _is_held_out(self) -> list[bool]:
        return [_uniform(text) < self.held_out for _, text in self.pairs]

    @property
    def held_out_texts(self) -> Sequence[tuple[Context, str]]:
        """The share of the texts that is kept from training."""
        return [pair for pair, out in zip(self.pairs, self._is_held_out, strict=True) if out]

    @property
    def training_texts(self) -> Sequence[tuple[Context, str]]:
        """The others, to learn from."""
        return [pair for pair, out in zip(self.pairs, self._is_held_out, strict=True) if not out]

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """The reward, which is only measured."""
        return {"reward": self.reward}

    @property
    def no_potential(self) -> str:
        """p is known by samples alone."""
        return (
            f"the target is known by the texts of {self.path} alone, which say nothing of the "
            "probability of others"
        )

    def log_potential(self, samples: Samples) -> Tensor:
        """There is none: raises UserError."""
        raise UserError(f"target={self.name}: {self.no_potential}; choose another target")


def _uniform(text: str) -> float:
    """A number in [0, 1) that is a text's own."""
    randomness = Randomness("held out", tuple(text.encode()), 0)
    return float(randomness.uniforms(torch.zeros(1, dtype=torch.long), 1))
