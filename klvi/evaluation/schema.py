"""How often, and how precisely, a policy is measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from klvi.schema import Section, Size

# Of an enumerable prior all are listed; more would take longer than what is measured.
MAX_SEQUENCES, MAX_LENGTH = 250_000, 24


class EvaluationSection(Section):
    """How precisely the policy is measured."""

    samples: Annotated[int, Field(ge=2)] | None = None
    """samples in all; null: 512, or with prompts 64 of each of at most 24 prompts"""
    prior_samples: Annotated[int, Field(ge=2)] | None = None
    """samples of the prior in all; null: 1024, or with prompts as many as of the policy"""
    prompts: Annotated[int, Field(ge=2)] | None = None
    """prompts measured, drawn once"""
    samples_per_prompt: Annotated[Size, Field(ge=2)] | None = None
    """null: 64"""
    pass_k: list[Size] | None = None
    """of a reward of 0 and 1, pass@k for each k: the share of prompts with a 1 among k samples"""
    ess_floor: Annotated[float, Field(ge=1)] = 30.0
    """effective samples below which a weighted estimate is unavailable"""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """of the intervals"""
    seed: Annotated[int, Field(ge=0)] = 1
    """of the evaluation's sampling"""


class PeriodicEvaluation(EvaluationSection):
    """How often, and how precisely, the policy is measured while it is trained."""

    every: Annotated[int, Field(ge=1)] = 25
    """updates between evaluations"""
