"""A run's whole configuration, and those of the commands that measure and sample."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from klvi.engine.schema import EngineSection
from klvi.evaluation.schema import EvaluationSection, PeriodicEvaluation
from klvi.objectives.schema import ObjectiveSection
from klvi.policy.schema import LoraSection, Model, PolicySection
from klvi.prompts.schema import PromptsSection
from klvi.rewards.schema import RewardSection
from klvi.samplers.schema import ProposalSection, SamplerSection
from klvi.schema import Device, Location, Remedy, RunName, Section, Size, Threads
from klvi.targets.schema import TargetSection
from klvi.tracking.schema import TrackingSection
from klvi.training.schema import CheckpointSection, OptimSection


class ProblemConfig(Section):
    """What `train`, `eval` and `sample` share: a prior, a reward, a target, and the engine."""

    model: Model
    reward: RewardSection
    target: TargetSection
    prompts: PromptsSection
    engine: EngineSection
    gold: RewardSection | None = None
    """a second reward, measured at every evaluation and never trained on; null for none"""
    lora: LoraSection = LoraSection()
    max_new_tokens: Size = 48
    """longest completion: with the end of sequence, the support of every distribution"""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """temperature of the target p ∝ prior·exp(reward/beta)"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of sampling and initialisation"""
    device: Device = "auto"
    """auto (CUDA, else the CPU), cpu, cuda, cuda:N or mps"""
    threads: Threads | None = None
    """CPU threads; null leaves it to torch"""


class TrainConfig(ProblemConfig):
    """`klvi train`."""

    name: RunName
    """folder of the run under runs/"""
    objective: ObjectiveSection
    proposal: ProposalSection
    tracking: TrackingSection
    updates: Annotated[int, Field(ge=1)] = 50
    """policy updates"""
    batch_size: Annotated[Size, Field(ge=2)] = 128
    """samples of an update"""
    samples_per_prompt: Size | None = None
    """completions of a prompt in an update; null: 1, or 8 where the objective needs groups"""
    anneal: Annotated[float, Field(ge=0, le=1)] = 0.0
    """share of the updates in which the target is tempered, from the prior on: keeps its far modes;
    rl has none"""
    optim: OptimSection = OptimSection()
    evaluation: PeriodicEvaluation = PeriodicEvaluation()
    checkpoint: CheckpointSection = CheckpointSection()


class OfRunConfig(ProblemConfig):
    """What `eval` and `sample` share: a run's policy, or the prior alone where `run` is null."""

    sampler: SamplerSection
    policy: PolicySection = PolicySection()
    run: Location | None = None
    """folder of a run; null for the prior alone"""
    trust: bool = False
    """whether code, files and tracking that another's run names are used; read them first"""
    out: Location | None = None
    """file of the results"""
    overwrite: bool = False
    """whether out may replace a file"""


class EvalConfig(OfRunConfig):
    """`klvi eval`."""

    evaluation: EvaluationSection = EvaluationSection()
    out: Location | None = None
    """file of the numbers; null: eval.json in the run's folder"""


class SampleConfig(OfRunConfig):
    """`klvi sample`."""

    n: Annotated[int, Field(ge=1)] = 20
    """number of texts"""
    out: Location | None = None
    """JSON lines file; null prints the texts"""


class PreferencesConfig(OfRunConfig):
    """`klvi preferences`: pairs of completions, labelled by the reward."""

    n: Annotated[int, Field(ge=1)] = 1000
    """number of pairs"""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """of the labels, in units of the reward: P(a is chosen) = sigmoid((r_a - r_b)/temperature);
    0 chooses the larger reward always"""
    out: Annotated[Location, Remedy("the file to write, as in {key}=FILE.jsonl")]
    """JSON lines file: prompt, chosen, rejected and their scores"""
