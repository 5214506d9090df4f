"""A run's whole configuration, and those of the commands that measure and sample."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from klvi.engine.schema import RolloutSection
from klvi.evaluation.schema import EvaluationSection
from klvi.objectives.schema import Objective
from klvi.policy.schema import LoraSection, Model
from klvi.prompts.schema import Prompts
from klvi.rewards.schema import Reward
from klvi.schema import INSIDE, Device, Location, Section, Size, Text, Threads, _inside
from klvi.targets.schema import Target
from klvi.tracking.schema import Tracking
from klvi.training.schema import CheckpointSection, OptimSection


class MeasureConfig(Section):
    """What `train`, `eval` and `sample` share: a prior, a reward, a target, and how to measure."""

    model: Model
    reward: Reward
    target: Target
    prompts: Prompts
    lora: LoraSection = LoraSection()
    rollout: RolloutSection = RolloutSection()
    evaluation: EvaluationSection = EvaluationSection()
    beta: Annotated[float, Field(gt=0)]
    seed: Annotated[int, Field(ge=0)] = 0
    device: Device = "auto"
    threads: Threads | None = None


class TrainConfig(MeasureConfig):
    """`klvi train`."""

    name: Annotated[Text, Field(min_length=1), AfterValidator(_inside), INSIDE]
    objective: Objective
    tracking: Tracking
    updates: Annotated[int, Field(ge=1)]
    batch_size: Annotated[Size, Field(ge=2)]
    anneal: Annotated[float, Field(ge=0, le=1)] = 0.0
    optim: OptimSection = OptimSection()
    checkpoint: CheckpointSection = CheckpointSection()


class EvalConfig(MeasureConfig):
    """`klvi eval`: a run's policy, or the prior alone where `run` is null."""

    run: Location | None = None
    trust: bool = False
    out: Location | None = None
    overwrite: bool = False


class SampleConfig(MeasureConfig):
    """`klvi sample`: texts of a run's policy, or of the prior where `run` is null."""

    run: Location | None = None
    trust: bool = False
    n: Annotated[int, Field(ge=1)] = 20
    out: Location | None = None
    overwrite: bool = False
