"""Where a run's records go beside its folder."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from klvi.schema import Choice, Names, Text


class TrackingSection(Choice):
    """Where records go beside the console and the run's folder."""

    group_name = "tracking"
    reaches: ClassVar[Names | None] = Names("tracking", "service")


class NoTracking(TrackingSection):
    """The console and the run's folder alone."""

    reaches: ClassVar[Names | None] = None
    name: Literal["none"]


class WandbTracking(TrackingSection):
    """Weights & Biases beside the console and the run's folder."""

    builds = "klvi.tracking.wandb:WandbTracker"
    name: Literal["wandb"]
    project: Text = "klvi"
    """wandb's project"""
    entity: Text | None = None
    """wandb's user or team; null: wandb's default"""
    group: Text | None = None
    """null: the sweep"""
    job_type: Text | None = None
    """null: the objective"""
    tags: Annotated[list[Text], Field(default_factory=list)]
    """beside those that klvi sets"""
    mode: Literal["online", "offline", "disabled"] | None = None
    """null: as WANDB_MODE has it"""
