"""The targets and their keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from klvi.rewards.schema import RewardSection
from klvi.schema import Choice, Section, Size

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


class FeatureSection(Section):
    """A feature and the mean that it has under the target."""

    builds: ClassVar[str] = "klvi.targets.moments:Feature"
    reward: RewardSection
    mean: float
    """wanted under the target"""


class MomentsTarget(TargetSection):
    """p ∝ π0·exp(Σ λ·feature), λ such that each feature has its wanted mean."""

    builds = "klvi.targets.moments:Moments"
    name: Literal["moments"]
    features: dict[str, FeatureSection]
    """name: {reward: {name: ...}, mean: 0.5}"""
    constraint: bool = False
    """whether the reward has to be at least threshold as well"""
    threshold: float = 0.5
    """the least reward that meets the constraint"""
    samples: Annotated[Size, Field(ge=2)] = 8192
    """to which λ is fitted"""
    refit_every: Annotated[int, Field(ge=1)] | None = 10
    """updates between fits to the policy's samples, up to two thirds of the run; null: none"""
    ess_floor: Annotated[float, Field(gt=0)] = 1000.0
    """effective samples of the prior below which λ is fitted again"""

    @classmethod
    def capabilities(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """Without a hard constraint the potential is finite."""
        return frozenset() if values.get("constraint") is True else frozenset({FINITE_POTENTIAL})
