"""The commands that have a configuration of their own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from klvi.engine.schema import CheckedRollout
from klvi.policy.schema import LoraSection, Model
from klvi.prompts.schema import Prompts
from klvi.schema import Device, Location, Section


class ExportConfig(Section):
    """`klvi export`: a merged Hugging Face folder of a run's policy, or of a prior."""

    run: Location | None = None
    trust: bool = False
    model: Model
    lora: LoraSection = LoraSection()
    out: Location | None = None


class ResumeConfig(Section):
    """`klvi resume`: go on from a run's last checkpoint, to its end or to another one."""

    run: Location | None = None
    trust: bool = False
    changed: bool = False
    updates: Annotated[int, Field(ge=1)] | None = None


class EnvConfig(Section):
    """`klvi env`: versions, devices and paths, and the check of a model's numbers."""

    model: Model
    prompts: Prompts
    lora: LoraSection = LoraSection()
    rollout: CheckedRollout = CheckedRollout()
    device: Device = "auto"
