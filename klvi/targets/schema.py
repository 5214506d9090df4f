"""The targets and their keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from klvi.schema import Section


class PosteriorTarget(Section):
    """p ∝ π0·exp(r/β), with the top-level `beta`."""

    name: Literal["posterior"]


class ConstraintTarget(Section):
    """p ∝ π0·b, b = 1 where the reward is at least `threshold`."""

    name: Literal["constraint"]
    threshold: float = 0.5


Target = Annotated[PosteriorTarget | ConstraintTarget, Field(discriminator="name")]
