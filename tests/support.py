"""What all tests share: few threads, small real models, and the list of all short sequences."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import MistralConfig

from klvi.cli import main
from klvi.commands.context import Context as JobContext
from klvi.contexts import Context, contexts_of
from klvi.engine.micro_batch import MicroBatch
from klvi.files import digest
from klvi.metrics.enumeration import enumerate_sequences
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.runs.assembly import assemble_evaluator, assemble_loop
from klvi.runs.schema import EvalConfig, TrainConfig
from klvi.runs.trust import signature
from klvi.samplers.ancestral import Ancestral
from klvi.samples import Completions, Samples
from klvi.training.loop import Loop

torch.set_num_threads(1)

Klvi = Callable[..., subprocess.CompletedProcess[str]]

LETTERS, LENGTH = 4, 4
# A command's context without a job; and settings of a run that takes no time.
NOWHERE = JobContext(None, None, None, ())
SHORT: dict[str, Any] = {
    "evaluation": {"samples": 16, "prior_samples": 16, "every": 1, "ess_floor": 2},
    "checkpoint": {"every": 1, "keep": 9},
    "batch_size": 16,
}
SMALL_RUN = (
    *("model=enumerable", "model.letters=3", "model.length=3", "lora.r=4", "batch_size=32"),
    *("evaluation.samples=64", "evaluation.prior_samples=64", "evaluation.ess_floor=2"),
    *("threads=1", "device=cpu"),
)
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def disturb(policy: Policy, size: float = 0.3, seed: int = 1) -> Policy:
    """Move the adapter away from the prior, reproducibly."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.adapter_parameters():
        parameter.data.add_(size * torch.randn(parameter.shape, generator=generator))
    return policy


def sliding_window_config() -> MistralConfig:
    """A small model whose layers keep the keys and values of three tokens."""
    return MistralConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=3,
    )


@dataclass(frozen=True)
class Enumeration:
    """All S sequences of the enumerable prior's space, and their log-probabilities."""

    completions: Completions
    ended: Tensor

    def log_probs(self, policy: Policy) -> Tensor:
        """`(S,)` log π(x) with gradient."""
        view = MicroBatch.of(self.completions).forward(policy.model)
        return view.log_probs().double().sum(1)

    def log_probs_prior(self, policy: Policy) -> Tensor:
        """`(S,)` log π0(x)."""
        with torch.no_grad():
            return self.log_probs(Policy(policy.prior))


def listed(letters: int = LETTERS, length: int = LENGTH) -> Enumeration:
    """All sequences of an enumerable prior, after its start token alone."""
    found = enumerate_sequences(range(letters), letters, length)
    one = torch.ones(len(found), dtype=torch.long)
    start = torch.full((len(found), 1), letters)
    return Enumeration(Completions(start, one, found.tokens, found.lengths), found.ended)


def letter_reward(texts: list[str]) -> Tensor:
    """A reward in [0, 1] that is neither constant nor binary and depends on letters' places."""
    return torch.tensor(
        [sum((ord(c) - 96) / (i + 2) for i, c in enumerate(t.split())) / 8 for t in texts]
    ).clamp(0, 1)


class LetterReward:
    """`letter_reward` as a reward."""

    name = "letters"

    def __call__(self, texts: list[str], contexts: list[Context]) -> Tensor:
        return letter_reward(texts)


def made_samples(lengths: list[int], seed: int = 0) -> Samples:
    """Scored samples of random numbers, with values."""
    generator = torch.Generator().manual_seed(seed)
    count, width = len(lengths), max(lengths)
    tokens = torch.randint(0, 4, (count, width), generator=generator)
    sizes = torch.tensor(lengths)
    mask = torch.arange(width) < sizes[:, None]

    def noise() -> Tensor:
        return torch.randn(count, width, generator=generator) * mask

    return Samples(
        contexts=contexts_of([""] * count),
        prompt_tokens=torch.full((count, 1), 4),
        prompt_lengths=torch.ones(count, dtype=torch.long),
        tokens=tokens,
        lengths=sizes,
        ended=sizes < width,
        log_policy=-noise().abs(),
        log_prior=-noise().abs(),
        texts=["a"] * count,
        scores={"reward": torch.rand(count, generator=generator)},
        values=noise(),
    )


def train_config(**changes: object) -> TrainConfig:
    """A valid configuration on the small enumerable prior, with changes."""
    values: dict[str, object] = {
        "model": {"name": "enumerable", "letters": LETTERS, "length": LENGTH},
        "reward": {"name": "contains", "text": "a"},
        "target": {"name": "posterior"},
        "prompts": {"name": "none"},
        "objective": {"name": "kl"},
        "tracking": {"name": "none"},
        "lora": {"r": 8},
        "beta": 0.2,
        "name": "test",
        "updates": 2,
        "batch_size": 64,
        "proposal": {"name": "policy"},
        "engine": {"name": "torch", "kernels": "none"},
        "max_new_tokens": LENGTH,
        "device": "cpu",
        "threads": 1,
    }
    return TrainConfig.model_validate(values | changes)


def prompted(prompt_file: Path, **changes: object) -> TrainConfig:
    """A configuration of GDC with prompts of letters, with changes."""
    values: dict[str, object] = {
        "model": {"name": "enumerable", "letters": 4, "length": 2},
        "max_new_tokens": 2,
        "prompts": {"name": "file", "path": str(prompt_file)},
        "objective": {"name": "gdc"},
    }
    return train_config(**{**values, **changes})


def eval_config(config: TrainConfig, **changes: object) -> EvalConfig:
    """What `klvi eval` measures of a run with `config`."""
    values = config.model_dump(include=set(EvalConfig.model_fields))
    del values["evaluation"]["every"]
    return EvalConfig.model_validate(values | {"sampler": {"name": "ancestral"}} | changes)


def assembled(config: TrainConfig) -> Loop:
    """The loop of a run that has no folder."""
    return assemble_loop(config, assemble_evaluator(config, adapted=True))


def records(folder: Path) -> list[dict[str, Any]]:
    """What a run has recorded, without what depends on the clock."""
    timed = ("time/", "seconds", "tokens_per_second")
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines]


def summary(folder: Path) -> dict[str, Any]:
    """What a run or a job has left of its end."""
    return json.loads((folder / "summary.json").read_text())


def weights(folder: Path) -> dict[str, Tensor]:
    """The final adapter of a run."""
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def sign(folder: Path, *code: Path) -> None:
    """Leave a manifest in a run's folder as the user's own klvi does."""
    digests = {str(file): digest(file) for file in code}
    signed = signature((folder / "config.yaml").read_text(), digests)
    (folder / "manifest.json").write_text(json.dumps({"code": digests, "signature": signed}))


def sample(
    policy: Policy, contexts: Sequence[Context], *, seed: int = 0, **settings: Any
) -> Samples:
    """Unscored completions of the policy."""
    return Ancestral(**settings).complete(policy, contexts, Randomness("test", (seed,), 0))


def command(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command `klvi`, in this process and in `folder`."""
    out, err = io.StringIO(), io.StringIO()
    replaced = {"argv": ["klvi"], "stdout": out, "stderr": err}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in replaced.items():
            patch.setattr(f"sys.{name}", value)
        for name, value in environment.items():
            patch.setenv(name, value)
        code = main(words)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def raising(error: BaseException) -> Callable[..., Any]:
    """Whatever it is called with, it raises."""

    def call(*_: object, **__: object) -> Any:
        raise error

    return call
