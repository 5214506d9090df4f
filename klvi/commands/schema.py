"""The commands that have a configuration of their own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from klvi.policy.schema import LoraSection, Model
from klvi.prompts.schema import PromptsSection
from klvi.schema import Device, Location, Remedy, Section, Size, Threads


class ExportConfig(Section):
    """`klvi export`: a merged Hugging Face folder of a run's policy, or of a prior."""

    run: Location | None = None
    """folder of a run; null for the prior alone"""
    trust: bool = False
    """whether code, files and tracking that another's run names are used; read them first"""
    model: Model
    lora: LoraSection = LoraSection()
    out: Annotated[Location, Remedy("the folder to write, as in {key}=DIR")]
    """the folder to write"""


class ResumeConfig(Section):
    """`klvi resume`: go on from a run's last checkpoint, to its end or to another one."""

    run: Annotated[Location, Remedy("the run's folder, as in {key}=runs/kl/DIR")]
    """folder of the run"""
    trust: bool = False
    """whether code, files and tracking that another's run names are used; read them first"""
    changed: bool = False
    """whether to go on where klvi, code, prompts or prior are not what they were"""
    updates: Annotated[int, Field(ge=1)] | None = None
    """null: as in the run; else its new end, of a finished run too: learning rate and annealing go
    on as in a run of that many updates, and the final adapter stays until there is another"""


class EnvConfig(Section):
    """`klvi env`: versions, devices and paths, and the check of a model's numbers."""

    model: Model
    prompts: PromptsSection
    lora: LoraSection = LoraSection()
    max_new_tokens: Size = 48
    """longest completion that is checked"""
    device: Device = "auto"
    """auto (CUDA, else the CPU), cpu, cuda, cuda:N or mps"""


class RewardModelConfig(Section):
    """`klvi reward`: an ensemble of reward models of preference pairs."""

    data: Annotated[Location, Remedy("a file of pairs, as in {key}=FILE.jsonl")]
    """JSON lines with prompt, chosen and rejected: of klvi preferences, or from elsewhere"""
    out: Annotated[Location, Remedy("the folder to write, as in {key}=DIR")]
    """the folder to write: a classifier per member in 0, 1, …; reward.json; calibration.png"""
    model: Model
    lora: LoraSection = LoraSection()
    full: bool = False
    """whether all weights are trained instead of a LoRA adapter"""
    ensemble: Annotated[int, Field(ge=1, le=100)] = 4
    """number of reward models: they differ by initialisation and order of the pairs"""
    bootstrap: bool = False
    """whether each has pairs of its own, drawn with replacement"""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """share of the pairs that is not trained on but measured with"""
    epochs: Annotated[int, Field(ge=1, le=1000)] = 3
    """passes through the pairs"""
    batch_size: Size = 32
    """pairs of a step"""
    lr: Annotated[float, Field(gt=0)] | None = None
    """highest learning rate; null: chosen by the model's size"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of initialisation, order, bootstrap and what is held out"""
    device: Device = "auto"
    """auto (CUDA, else the CPU), cpu, cuda, cuda:N or mps"""
    threads: Threads | None = None
    """CPU threads; null leaves it to torch"""
