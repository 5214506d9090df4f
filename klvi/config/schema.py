"""The configuration of every command, typed.

A class here holds what may be set in one section; `conf/` holds the values. A config group
(`model`, `reward`, `target`, `objective`, `prompts`, `tracking`) is told by its `name`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
)

from klvi.config.bounds import bounded


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values are not coerced silently.

    Every number is bounded, also where its field says nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: object) -> object:
        return bounded(value)


def _whole_number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


@dataclass(frozen=True)
class InWords:
    """Beside a validator: what the value may be, in the words of an error."""

    words: str


# Hydra reads `name=2024` as a number, though a text is meant.
Text = Annotated[str, BeforeValidator(_whole_number_as_text)]
# Of tokens, samples or weights that are held in memory together.
Size = Annotated[int, Field(ge=1, le=10**6)]
# OpenMP ends the process where it cannot start as many.
Threads = Annotated[int, Field(ge=1, le=1024)]

# No shell expands the ~ in `run=~/runs/1`.
Location = Annotated[Text, AfterValidator(os.path.expanduser)]
LOCATIONS = ("run", "out", "corpus")


def _anchored(value: str) -> str:
    """An existing file or folder, also as `FILE:NAME`, by its absolute path: a run's folder must
    tell what it read from wherever it is opened. What does not exist here may be a hub's id.
    """
    path = os.path.expanduser(value)
    file, colon, name = path.rpartition(":")
    if not os.path.exists(path) and colon and os.path.isfile(file):
        return f"{os.path.abspath(file)}:{name}"
    return os.path.abspath(path) if os.path.exists(path) else path


Source = Annotated[Text, AfterValidator(_anchored)]


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise ValueError("not a device")
    return value


Device = Annotated[
    Text, AfterValidator(_device), InWords("one of auto, cpu, cuda, cuda:NUMBER, mps")
]


def _inside(value: str) -> str:
    if os.path.isabs(value) or os.pardir in value.split("/"):
        raise ValueError("leaves runs/")
    return value


INSIDE = InWords("the name of a folder under runs/")


class ModelConfig(Section):
    """The prior: a causal language model.

    A null dtype is chosen by the device: float32 on a CPU, the checkpoint's own on a GPU.
    """

    name: Text
    path: Source | None = None
    revision: Text | None = None
    start_token: Text | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    trust_remote_code: bool = False


class EnumerableModelConfig(Section):
    """The prior all of whose sequences can be listed."""

    name: Literal["enumerable"]
    letters: Annotated[int, Field(ge=2, le=26)] = 5
    length: Annotated[int, Field(ge=1, le=12)] = 5
    seed: Annotated[int, Field(ge=0)] = 0
    dtype: Literal["float32"] = "float32"


def _model_tag(value: object) -> str:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return "enumerable" if name == "enumerable" else "causal_lm"


Model = Annotated[
    Annotated[EnumerableModelConfig, Tag("enumerable")] | Annotated[ModelConfig, Tag("causal_lm")],
    Discriminator(_model_tag),
]


class LoraSection(Section):
    """The trained part of the policy (Hu et al. 2021, arXiv 2106.09685)."""

    r: Size = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    targets: list[Text] | None = None


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


class RolloutSection(Section):
    """How completions are sampled: always at temperature 1, never truncated.

    A null batch size is chosen by the model's size, its vocabulary and the length.
    """

    max_new_tokens: Size = 48
    batch_size: Size | None = None
    micro_batch_tokens: Annotated[int, Field(ge=1)] | None = None
    samples_per_prompt: Size | None = None
    engine: Literal["torch", "graph", "vllm"] = "torch"
    engine_memory: Annotated[float, Field(gt=0, lt=1)] = 0.3


class EvaluationSection(Section):
    """How often and how precisely the policy is measured."""

    samples: Annotated[int, Field(ge=2)] | None = None
    prior_samples: Annotated[int, Field(ge=2)] | None = None
    prompts: Annotated[int, Field(ge=2)] | None = None
    samples_per_prompt: Annotated[Size, Field(ge=2)] | None = None
    every: Annotated[int, Field(ge=1)] = 20
    ess_floor: Annotated[float, Field(ge=1)] = 30.0
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    seed: Annotated[int, Field(ge=0)] = 1


class CheckpointSection(Section):
    """How often a run becomes resumable, and how many checkpoints are kept."""

    every: Annotated[int, Field(ge=1)] = 20
    keep: Annotated[int, Field(ge=1)] = 2


class ContainsReward(Section):
    """1 where the completion contains the text, else 0."""

    name: Literal["contains"]
    text: Annotated[Text, Field(min_length=1)]
    case_sensitive: bool = True


class LexiconReward(Section):
    """Non-offensiveness: 0 without a listed word, `penalty` with one."""

    name: Literal["lexicon"]
    words: list[Text] | None = None
    path: Source | None = None
    penalty: Annotated[float, Field(lt=0)] = -1.0


class LengthReward(Section):
    """Minus the distance of the completion's length from `target`, divided by `scale`."""

    name: Literal["length"]
    target: Annotated[int, Field(ge=0)] = 20
    scale: Annotated[float, Field(gt=0)] = 10.0
    unit: Literal["words", "characters"] = "words"


class LettersReward(Section):
    """A graded score of texts of a few letters: late in the alphabet, early in the text."""

    name: Literal["letters"]


class ClassifierReward(Section):
    """Log-probability (nats) of a label, or the score of a single logit, by a classifier."""

    name: Literal["classifier"]
    path: Source | None = None
    label: str | int | None = None
    transform: Literal["logit", "log_sigmoid", "log_softmax"] | None = None
    batch_size: Size = 64
    with_prompt: bool = False
    chat: bool = False
    device: Text | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    trust_remote_code: bool = False


class PythonReward(Section):
    """A function of the user's, `FILE.py:NAME`: of texts, prompts and columns by their names."""

    name: Literal["python"]
    function: Source | None = None


class SumReward(Section):
    """A weighted sum of rewards; `terms` maps a label to a reward with its `weight`."""

    name: Literal["sum"]
    terms: dict[str, WeightedReward]


Reward = Annotated[
    ContainsReward
    | LexiconReward
    | LengthReward
    | LettersReward
    | ClassifierReward
    | PythonReward
    | SumReward,
    Field(discriminator="name"),
]


class WeightedReward(Section):
    """One term of a sum."""

    weight: float = 1.0
    reward: Reward


SumReward.model_rebuild()


class PosteriorTarget(Section):
    """p ∝ π0·exp(r/β), with the top-level `beta`."""

    name: Literal["posterior"]


class ConstraintTarget(Section):
    """p ∝ π0·b, b = 1 where the reward is at least `threshold`."""

    name: Literal["constraint"]
    threshold: float = 0.5


Target = Annotated[PosteriorTarget | ConstraintTarget, Field(discriminator="name")]


class PPOSection(Section):
    """Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347)."""

    needs_groups: ClassVar[bool] = False
    name: str
    epochs: Annotated[int, Field(ge=1)] = 4
    minibatches: Annotated[int, Field(ge=1)] = 1
    clip: Annotated[float, Field(gt=0)] = 0.2
    value_clip: Annotated[float, Field(gt=0)] | None = 0.2
    value_coefficient: Annotated[float, Field(ge=0)] = 0.1
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 1.0
    soft_values: bool = True
    renew_penalty: bool = True
    whiten_advantages: bool = False
    centre_rewards: bool = True
    kl_stop: Annotated[float, Field(gt=0)] | None = None


class RLObjective(PPOSection):
    """Expected reward alone, by PPO: the objective that collapses."""

    name: Literal["rl"]


class KLObjective(PPOSection):
    """Expected reward minus β·KL(π‖π0), by PPO: reverse KL to the posterior."""

    name: Literal["kl"]


class GDCObjective(Section):
    """Forward KL to the target by distributional policy gradients."""

    needs_groups: ClassVar[bool] = True
    name: Literal["gdc"]
    proposal: Literal["policy", "adaptive", "mixture"] = "policy"
    prior_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    baseline: bool = True
    divergence: Literal["kl", "tv"] = "kl"
    epochs: Annotated[int, Field(ge=1)] = 1
    minibatches: Annotated[int, Field(ge=1)] = 1


Objective = Annotated[RLObjective | KLObjective | GDCObjective, Field(discriminator="name")]


class NoPrompts(Section):
    """Completions from the start token alone."""

    name: Literal["none"]


class FilePrompts(Section):
    """Prompts from a file: a text per line; or JSON, CSV or Parquet with `field`, or `messages`.

    `chat` holds arguments of the chat template by which messages are laid out.
    """

    name: Literal["file"]
    path: Source | None = None
    format: Literal["auto", "text", "json", "csv", "parquet"] = "auto"
    field: Text = "prompt"
    chat: dict[str, bool | int | float | str] = {}
    max_tokens: Annotated[int, Field(ge=1)] = 256


Prompts = Annotated[NoPrompts | FilePrompts, Field(discriminator="name")]


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
    tags: list[Text] = []
    mode: Literal["online", "offline", "disabled"] | None = None


Tracking = Annotated[NoTracking | WandbTracking, Field(discriminator="name")]


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


class CheckedRollout(Section):
    """How far completions are checked."""

    max_new_tokens: Size = 48


class EnvConfig(Section):
    """`klvi env`: versions, devices and paths, and the check of a model's numbers."""

    model: Model
    prompts: Prompts
    lora: LoraSection = LoraSection()
    rollout: CheckedRollout = CheckedRollout()
    device: Device = "auto"


class PretrainConfig(Section):
    """`klvi pretrain`: a small prior, trained on a corpus."""

    out: Location | None = None
    corpus: Location | None = None
    stories: Annotated[int, Field(ge=100)] = 120_000
    samples: Annotated[int, Field(ge=2)] = 2_000
    vocabulary: Annotated[Size, Field(ge=300)] = 700
    layers: Size = 4
    width: Annotated[Size, Field(ge=8)] = 128
    heads: Size = 4
    context: Annotated[Size, Field(ge=8)] = 128
    steps: Annotated[int, Field(ge=1)] = 1600
    batch_size: Size = 128
    lr: Annotated[float, Field(gt=0)] = 2e-3
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Threads | None = None
