"""Where a run's records go beside its folder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from klvi.schema import Section, Text


class NoTracking(Section):
    """The console and the run's folder alone."""

    name: Literal["none"]


class WandbTracking(Section):
    """Weights & Biases beside the console and the run's folder."""

    name: Literal["wandb"]
    project: Text = "klvi"
    entity: Text | None = None
    group: Text | None = None
    job_type: Text | None = None
    tags: Annotated[list[Text], Field(default_factory=list)]
    mode: Literal["online", "offline", "disabled"] | None = None


Tracking = Annotated[NoTracking | WandbTracking, Field(discriminator="name")]
