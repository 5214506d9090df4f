"""Priors by name or path, from plain values."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.resources import files
from typing import Any, Literal

import yaml

from klvi.engine.devices import choose_device
from klvi.engine.memory import out_of_memory
from klvi.errors import UserError
from klvi.notebook.arguments import settings
from klvi.policy.prior import Prior
from klvi.policy.prior import load_prior as load
from klvi.policy.schema import EnumerableModelConfig, ModelConfig, name_of_path
from klvi.prompts.schema import FilePrompts
from klvi.runs.schema import ProblemConfig

TINY, ENUMERABLE = "tiny", "enumerable"


def load_prior(
    name: str | os.PathLike[str],
    *,
    max_new_tokens: int | None = None,
    revision: str | None = None,
    start_token: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None,
    device: str | None = None,
    kernels: Literal["auto", "none"] = "auto",
    trust_remote_code: bool = False,
    max_prompt_tokens: int | None = None,
    letters: int | None = None,
    length: int | None = None,
    model_seed: int | None = None,
) -> Prior:
    """A pretrained causal LM, with the longest completion that makes its space of sequences.

    Of a GPU's float32 matrix products nothing is changed; a command lets them use TF32.

    Args:
        name: what `model=` takes, such as "gpt2", "tiny" or "enumerable"; a hub id; or a folder.
        max_new_tokens: of a completion at most; None for 48, or an enumerable prior's `length`.
        revision: branch, tag or commit on the hub.
        start_token: token before a text without a prompt; None for the tokenizer's own.
        dtype: None for float32 on a CPU, the checkpoint's own on a GPU.
        device: "cpu", "cuda", "cuda:1", "mps"; None for CUDA where there is any, else the CPU.
        kernels: "none" for the model as transformers and peft have it.
        trust_remote_code: whether to run code that comes with the checkpoint.
        max_prompt_tokens: of a longer prompt the beginning is cut off; None for 256.
        letters: of an enumerable prior: size of the alphabet.
        length: of an enumerable prior: letters of a sequence at most.
        model_seed: of an enumerable prior's weights.

    Raises UserError where it cannot be found, or is not what it should be.
    """
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    if not isinstance(name, str) or not name.strip():
        kind = repr(name) if isinstance(name, str) else type(name).__name__
        raise UserError(f"name: is {kind}; give a model's name, hub id or folder")
    own = {"letters": letters, "length": length, "seed": model_seed}
    pretrained = {"revision": revision, "start_token": start_token, "dtype": dtype}
    config: ModelConfig | EnumerableModelConfig
    if name == ENUMERABLE:
        _refuse(name, pretrained)
        config = EnumerableModelConfig(name="enumerable", **settings(EnumerableModelConfig, **own))
        max_new_tokens = config.length if max_new_tokens is None else max_new_tokens
    else:
        _refuse(name, {"letters": letters, "length": length, "model_seed": model_seed})
        known = _known(name) | {k: value for k, value in pretrained.items() if value is not None}
        given = settings(ModelConfig, **known, trust_remote_code=trust_remote_code)
        config = ModelConfig(**given)
    support = settings(ProblemConfig, max_new_tokens=max_new_tokens, device=device)
    cut = settings(FilePrompts, max_tokens=max_prompt_tokens)["max_tokens"]
    with out_of_memory("loading"):
        prior = load(config, choose_device(support["device"]), kernels)
    return replace(prior, max_new_tokens=support["max_new_tokens"], max_prompt_tokens=cut)


def _refuse(name: str, values: dict[str, Any]) -> None:
    """Raises UserError for what has no meaning for a prior of this kind."""
    wrong = [key for key, value in values.items() if value is not None]
    if wrong:
        raise UserError(f"{wrong[0]}: not for the prior {name}; leave it out")


def _known(name: str) -> dict[str, Any]:
    """The path, and what else the config of that name says of a model."""
    if name == TINY:
        return {"name": name}
    file = files("klvi.conf") / "model" / f"{name}.yaml"
    if "/" in name or not file.is_file():
        return {"name": name_of_path(name), "path": name}
    model: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]
    return model
