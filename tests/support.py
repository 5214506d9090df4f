"""What all tests share: few threads, small real models, and the list of all short sequences."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from torch import Tensor
from transformers import MistralConfig

from klvi.contexts import Context, contexts_of
from klvi.engine.micro_batch import MicroBatch
from klvi.files import digest
from klvi.metrics.enumeration import enumerate_sequences
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.runs.schema import EvalConfig, TrainConfig
from klvi.runs.trust import signature
from klvi.samplers.ancestral import Ancestral
from klvi.samples import Completions, Samples

torch.set_num_threads(1)

LETTERS, LENGTH = 4, 4


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
        "engine": {"name": "torch"},
        "max_new_tokens": LENGTH,
        "device": "cpu",
        "threads": 1,
    }
    return TrainConfig.model_validate(values | changes)


def eval_config(config: TrainConfig, **changes: object) -> EvalConfig:
    """What `klvi eval` measures of a run with `config`."""
    values = config.model_dump(include=set(EvalConfig.model_fields))
    del values["evaluation"]["every"]
    return EvalConfig.model_validate(values | {"sampler": {"name": "ancestral"}} | changes)


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
