"""How precisely a policy is measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from klvi.schema import Section, Size

# Of an enumerable prior all are listed; more would take longer than what is measured.
MAX_SEQUENCES, MAX_LENGTH = 250_000, 24


class EvaluationSection(Section):
    """How often and how precisely the policy is measured."""

    samples: Annotated[int, Field(ge=2)] | None = None
    prior_samples: Annotated[int, Field(ge=2)] | None = None
    prompts: Annotated[int, Field(ge=2)] | None = None
    samples_per_prompt: Annotated[Size, Field(ge=2)] | None = None
    every: Annotated[int, Field(ge=1)] = 20
    ess_floor: Annotated[float, Field(ge=1)] = 30.0
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    seed: Annotated[int, Field(ge=0)] = 1
