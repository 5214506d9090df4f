"""The prior, and the trained part of the policy."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from klvi.schema import RemoteCode, Section, Size, Source, Text

MAX_NAME = 60


class ModelConfig(Section):
    """The prior: a causal language model."""

    name: Text
    path: Source | None = None
    """a causal LM: hub id or folder; without model= it gives the name"""
    revision: Text | None = None
    """branch, tag or commit on the hub"""
    start_token: Text | None = None
    """token before a text without a prompt; null: the tokenizer's own"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """null: float32 on a CPU, the checkpoint's own on a GPU"""
    trust_remote_code: RemoteCode = False
    """whether to run code that comes with the checkpoint"""


class EnumerableModelConfig(Section):
    """The prior all of whose sequences can be listed."""

    name: Literal["enumerable"]
    letters: Annotated[int, Field(ge=2, le=26)] = 5
    """size of the alphabet"""
    length: Annotated[int, Field(ge=1, le=12)] = 5
    """letters of a sequence at most"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of the model's weights"""
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
    """rank of the trained part"""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """the adapter is scaled by alpha/r"""
    targets: list[Text] | None = None
    """names of the adapted layers; null: all linear layers"""


class PolicySection(Section):
    """A policy that klvi has not trained: it is measured against the prior `model`."""

    path: Source | None = None
    """a model, or a peft adapter of the prior, by any trainer: folder or hub id; null: the run's
    policy, or the prior"""


def with_dtype(
    config: ModelConfig | EnumerableModelConfig, device: str
) -> ModelConfig | EnumerableModelConfig:
    """A model's section with the dtype to load: where it is null, float32 on a CPU, else auto.

    CPUs are slow in half precision, and a GPU's memory is what a checkpoint was made for.
    """
    if config.dtype is not None:
        return config
    return config.model_copy(update={"dtype": "float32" if device == "cpu" else "auto"})


def name_of_path(path: str | None) -> str:
    """What a model is called when only its `path` is given: the last part of it; `tiny` without.

    In a hub's cache the folder is named by a hash, and the model by a folder above.
    """
    if path is None:
        return "tiny"
    parts = os.path.abspath(os.path.expanduser(path)).split(os.sep)
    hub = [part.split("--")[-1] for part in parts if part.startswith("models--")]
    last = hub[-1] if hub and "snapshots" in parts else parts[-1]
    name = re.sub(r"[^\w.+-]+", "-", last).strip("-.")[:MAX_NAME]
    # `enumerable` is the name of a prior of another kind.
    return f"{name}-model" if name == "enumerable" else name or "model"
