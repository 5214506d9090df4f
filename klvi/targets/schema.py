"""The targets and their keys."""

from __future__ import annotations

from typing import ClassVar, Literal

from klvi.schema import Choice

FINITE_POTENTIAL = "a finite potential"


class TargetSection(Choice):
    """MODELLING: which distribution is wanted; `beta` is the run's own."""

    group_name = "target"


class PosteriorTarget(TargetSection):
    """p ∝ π0·exp(r/β), with the top-level `beta`."""

    builds = "klvi.targets.posterior:Posterior"
    provides: ClassVar[frozenset[str]] = frozenset({FINITE_POTENTIAL})
    name: Literal["posterior"]


class ConstraintTarget(TargetSection):
    """p ∝ π0·b, b = 1 where the reward is at least `threshold`."""

    builds = "klvi.targets.constraint:Constraint"
    name: Literal["constraint"]
    threshold: float = 0.5
    """the least reward that meets the constraint"""
