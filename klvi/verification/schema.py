"""`klvi verify`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from klvi.evaluation.schema import PeriodicEvaluation
from klvi.policy.schema import EnumerableModelConfig, LoraSection
from klvi.rewards.schema import RewardSection
from klvi.schema import Device, Location, Section, Size, Threads
from klvi.training.schema import OptimSection


class VerifyConfig(Section):
    """`klvi verify`: runs of `rl`, `kl` and `gdc` on an enumerable prior."""

    out: Location
    """folder of the runs, the table and the plot"""
    model: EnumerableModelConfig
    reward: RewardSection
    lora: LoraSection = LoraSection()
    max_new_tokens: Size = 5
    """longest sequence"""
    optim: OptimSection = OptimSection(lr=3e-3, beta2=0.99)
    evaluation: PeriodicEvaluation = PeriodicEvaluation(every=30, samples=512, prior_samples=1024)
    beta: Annotated[float, Field(gt=0)] = 0.1
    """temperature of the posterior"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of sampling and initialisation"""
    updates: Annotated[int, Field(ge=1)] = 300
    """of each run"""
    batch_size: Annotated[Size, Field(ge=2)] = 512
    """samples of an update"""
    anneal: Annotated[float, Field(ge=0, le=1)] = 0.5
    """share of the updates in which the target is tempered, from the prior on"""
    repetitions: Annotated[int, Field(ge=1)] = 50
    """independent evaluations of each policy"""
    device: Device = "auto"
    """auto (CUDA, else the CPU), cpu, cuda, cuda:N or mps"""
    threads: Threads | None = 1
    """CPU threads; null leaves it to torch"""
