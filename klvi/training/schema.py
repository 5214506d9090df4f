"""The optimizer, and how often a run becomes resumable."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from klvi.schema import Section


class OptimSection(Section):
    """The optimizer and its schedule; a null learning rate is chosen by the model's size."""

    lr: Annotated[float, Field(ge=0)] | None = None
    algorithm: Literal["adamw", "muon"] = "adamw"
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    warmup: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    micro_batch_tokens: Annotated[int, Field(ge=1)] | None = None
    gradient_checkpointing: bool = False


class CheckpointSection(Section):
    """How often a run becomes resumable, and how many checkpoints are kept."""

    every: Annotated[int, Field(ge=1)] = 20
    keep: Annotated[int, Field(ge=1)] = 2
