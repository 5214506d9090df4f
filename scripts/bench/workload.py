"""What is measured: a prior, a batch, a length, and the objective that trains on them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from klvi.config.compose import composer, to_config
from klvi.runs.schema import TrainConfig

Shape = Literal["tiny", "tiny-shaped", "gpt2-small"]
Device = Literal["cpu", "cuda"]
Engine = Literal["torch", "graph"]


@dataclass(frozen=True)
class Workload:
    """One row of the benchmark.

    Attributes:
        shape: the shipped prior, a random model of its shape, or one of GPT-2 small's.
        path: folder of a random model; None for the shipped prior.
        objective: `kl` (PPO) or `gdc`.
        proposal: what is learned from; None for the objective's own choice.
        batch: completions of an update.
        length: tokens of a completion; at most that many where `natural`.
        natural: completions end by themselves, else no token ends one.
        engine: what decodes for klvi.
        updates: measured updates of one process, after `warmup` updates that are not.
        without: a kernel of `klvi.engine.kernels` that is left out.
    """

    shape: Shape
    batch: int
    length: int
    path: str | None = None
    objective: Literal["kl", "gdc"] = "kl"
    proposal: Literal["policy", "mixture"] | None = None
    natural: bool = False
    updates: int = 3
    warmup: int = 1
    device: Device = "cpu"
    engine: Engine = "torch"
    without: str | None = None

    @property
    def total_updates(self) -> int:
        """All updates of one process."""
        return self.warmup + self.updates

    @property
    def title(self) -> str:
        """As the tables name it."""
        length = f"≤{self.length}" if self.natural else str(self.length)
        return f"{self.objective} {self.shape} {self.batch}×{length}"

    def config(self) -> TrainConfig:
        """The configuration that `klvi train` would compose for it."""
        overrides = [
            f"model={'gpt2' if self.shape == 'gpt2-small' else 'tiny'}",
            f"objective={self.objective}",
            "reward=contains",
            "reward.text=Paris",
            f"batch_size={self.batch}",
            "optim.lr=2e-3",
            "engine.batch_size=512",
            "model.dtype=float32",
            f"max_new_tokens={self.length}",
            f"updates={self.total_updates}",
            f"device={self.device}",
            f"engine={self.engine}",
            f"threads={1 if self.device == 'cpu' else 'null'}",
        ]
        if self.proposal is not None:
            overrides.append(f"proposal={self.proposal}")
        if self.path is not None:
            overrides.append(f"model.path={self.path}")
        with composer("train") as hydra:
            config = to_config("train", hydra.compose(overrides))
        assert isinstance(config, TrainConfig)
        return config

    def to_json(self) -> str:
        """For the command line of a child process."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Workload:
        """The inverse of `to_json`."""
        return Workload(**json.loads(text))


@contextmanager
def random_prior(shape: Shape, vocabulary: int | None = None) -> Iterator[str]:
    """The folder of a random prior, while it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        make_random_prior(shape, Path(folder), vocabulary)
        yield folder


def make_random_prior(shape: Shape, folder: Path, vocabulary: int | None = None) -> None:
    """Write a seeded random GPT-2 of `shape`, and a tokenizer of numbered words, to `folder`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from klvi.policy.loading import quiet_transformers
    from klvi.policy.tiny import tiny_path

    if shape == "gpt2-small":
        config = GPT2Config()
    else:
        config = GPT2Config.from_pretrained(tiny_path(), n_positions=256)
    config.vocab_size = vocabulary or config.vocab_size
    end = config.vocab_size - 1
    config.bos_token_id = config.eos_token_id = end
    torch.manual_seed(0)
    with quiet_transformers():
        GPT2LMHeadModel(config).save_pretrained(folder)
    words = {f"w{i}": i for i in range(end)} | {"<|endoftext|>": end}
    backend = Tokenizer(models.WordLevel(words, unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ).save_pretrained(folder)
