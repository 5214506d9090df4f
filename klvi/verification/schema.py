"""`klvi verify`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from klvi.engine.schema import RolloutSection
from klvi.evaluation.schema import EvaluationSection
from klvi.policy.schema import EnumerableModelConfig, LoraSection
from klvi.rewards.schema import Reward
from klvi.schema import Device, Location, Section, Size, Threads
from klvi.training.schema import OptimSection


class VerifyConfig(Section):
    """`klvi verify`: runs of `rl`, `kl` and `gdc` on an enumerable prior."""

    out: Location
    model: EnumerableModelConfig
    reward: Reward
    lora: LoraSection = LoraSection()
    rollout: RolloutSection = RolloutSection()
    optim: OptimSection = OptimSection()
    evaluation: EvaluationSection = EvaluationSection()
    beta: Annotated[float, Field(gt=0)]
    seed: Annotated[int, Field(ge=0)] = 0
    updates: Annotated[int, Field(ge=1)]
    batch_size: Annotated[Size, Field(ge=2)]
    anneal: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetitions: Annotated[int, Field(ge=1)] = 50
    device: Device = "auto"
    threads: Threads | None = None
