"""Which layers of a model a LoRA adapter is put on."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from klvi.engine.kernels.products import is_linear_map
from klvi.engine.memory import is_out_of_memory
from klvi.engine.views import view_of
from klvi.errors import UserError, described
from klvi.policy.prior import most_tokens
from klvi.policy.schema import LoraSection
from klvi.randomness import torch_seeded

# Tokens of the pass that shows which layers a model calls: enough to reach most experts.
PROBE_TOKENS = 128
# Kinds of layers that peft adapts.
ADAPTABLE = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def adapter_config(model: PreTrainedModel, lora: LoraSection) -> tuple[LoraConfig, dict[str, str]]:
    """peft's configuration of the adapter, and the kinds of layers left out, with the reason.

    No dropout: rollouts, log-probabilities and gradients are of one and the same policy. Without
    `lora.targets` the adapter is put on every linear layer that it can change, except the output
    embedding.

    Raises UserError where a target names no module of the model, or one that cannot be adapted.
    """
    if lora.targets is not None:
        _check_targets(model, lora)
        return _config(model, lora, lora.targets), {}
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    head = model.get_output_embeddings()
    candidates = [name for name in linear if model.get_submodule(name) is not head]
    left_out: dict[str, str] = {}

    def drop(names: Iterable[str], reason: str) -> None:
        left_out.update({kind_of(name): reason for name in names})

    drop(
        (n for n in candidates if not is_linear_map(model.get_submodule(n))),
        "more than a linear map",
    )
    drop(_refused(model, lora, _without(candidates, left_out)), "refused by peft")
    unplaced, uncalled = _ineffective(model, lora, _without(candidates, left_out))
    drop(unplaced, "peft puts no adapter there")
    drop(uncalled, "no pass calls it")
    targets = _without(candidates, left_out)
    if not targets:
        raise UserError(
            "lora.targets: this model has no linear layer that can be adapted; name layers of "
            f"another kind, such as lora.targets=[{_leaf(_embedding_name(model))}]"
        )
    return _config(model, lora, targets, full_names=True), left_out


def adapt(model: PreTrainedModel, config: LoraConfig, seed: int = 0) -> PeftModel:
    """The model with fresh adapter layers put into it, whose weights `seed` tells."""
    with torch_seeded(seed), warnings.catch_warnings():
        # GPT-2 has both kinds of linear layers; peft tells them apart itself.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        # Views and exports part tied embeddings themselves, where only one of them is adapted.
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        # The configuration of mixtures of experts, which peft rewrites for their fused weights.
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys")
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, config)


def kind_of(name: str) -> str:
    """A module's name without numbers: the same for each layer and expert."""
    kind: str = re.sub(r"(?<![^.])\d+(?![^.])", "#", name)
    return kind


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _without(names: list[str], left_out: dict[str, str]) -> list[str]:
    return [name for name in names if kind_of(name) not in left_out]


def _embedding_name(model: PreTrainedModel) -> str:
    embedding = model.get_input_embeddings()
    return next((name for name, module in model.named_modules() if module is embedding), "")


def _config(
    model: PreTrainedModel, lora: LoraSection, targets: list[str], *, full_names: bool = False
) -> LoraConfig:
    """The configuration for `targets`, whose full names are shortened where that is unambiguous."""
    excluded = None
    if full_names:
        leaves = sorted({_leaf(name) for name in targets})
        others = {name for name, _ in model.named_modules()} - set(targets)
        excluded = sorted(name for name in others if _leaf(name) in leaves) or None
        targets = leaves
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        target_modules=targets,
        exclude_modules=excluded,
        lora_dropout=0.0,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )


def _check_targets(model: PreTrainedModel, lora: LoraSection) -> None:
    names = [name for name, _ in model.named_modules()]
    if not lora.targets:
        raise UserError("lora.targets=[]: names no layer; lora.targets=null takes all linear ones")
    missing = [
        target
        for target in lora.targets
        if not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if missing:
        linear = sorted(
            {_leaf(n) for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
        )
        raise UserError(
            f"lora.targets={missing}: no such layer in this model; it has {', '.join(linear)} "
            "(lora.targets=null takes all)"
        )
    for target in lora.targets:
        _check_kind(model, target, [n for n in names if n == target or n.endswith(f".{target}")])
    problem = _peft_problem(model, _config(model, lora, lora.targets or []))
    if problem:
        raise UserError(
            f"lora.targets={lora.targets}: {problem}; lora.targets=null takes what can be adapted"
        )


def _check_kind(model: PreTrainedModel, target: str, names: list[str]) -> None:
    """Raises UserError where a target is no layer with weights to adapt, such as a whole block."""
    module = model.get_submodule(names[0])
    if isinstance(module, ADAPTABLE) or not any(True for _ in module.children()):
        return
    inside = sorted({_leaf(n) for n, m in module.named_modules() if isinstance(m, ADAPTABLE)})
    raise UserError(
        f"lora.targets: {target} ({type(module).__name__}) is no single layer; name those in it: "
        f"{', '.join(inside)}"
    )


def _peft_problem(model: PreTrainedModel, config: LoraConfig) -> str | None:
    try:
        adapt(view_of(model), config)
    except (ValueError, TypeError, AttributeError, NotImplementedError, RuntimeError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def _refused(model: PreTrainedModel, lora: LoraSection, names: list[str]) -> list[str]:
    """The layers that peft does not adapt, of the kinds whose last name it does not take."""
    if not names or _peft_problem(model, _config(model, lora, names, full_names=True)) is None:
        return []
    refused = {
        leaf
        for leaf in {_leaf(name) for name in names}
        if _peft_problem(
            model, _config(model, lora, [n for n in names if _leaf(n) == leaf], full_names=True)
        )
    }
    return [name for name in names if _leaf(name) in refused]


@torch.no_grad()
def _ineffective(
    model: PreTrainedModel, lora: LoraSection, names: list[str]
) -> tuple[list[str], list[str]]:
    """The layers that peft passes over, and those of the kinds that a forward pass never calls.

    In mixtures of experts peft takes some layers' names for the experts' weights. Of a layer that
    is not called the weights may still be read: its adapter would change nothing until merged.
    """
    if not names:
        return [], []
    view = view_of(model)
    adapt(view, _config(model, lora, names, full_names=True))
    called: set[str] = set()

    def note(name: str) -> Any:
        return lambda *_: called.add(kind_of(name))

    for name, module in view.named_modules():
        if isinstance(module, LoraLayer):
            module.register_forward_hook(note(name))
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = torch.arange(PROBE_TOKENS, device=model.device)[None] % vocabulary
    try:
        view(input_ids=tokens[:, : _room(model)], use_cache=False)
    except Exception as error:  # whatever a model raises
        if is_out_of_memory(error):
            raise
        remedy = "take another model"
        if model.dtype != torch.float32:
            remedy = f"set model.dtype=float32, or {remedy}"
        raise UserError(
            f"{type(model).__name__} cannot run in {str(model.dtype).removeprefix('torch.')} on "
            f"{model.device} ({described(error)}); {remedy}"
        ) from error
    placed = {name for name in names if isinstance(view.get_submodule(name), LoraLayer)}
    unplaced = [name for name in names if name not in placed]
    return unplaced, [n for n in names if n in placed and kind_of(n) not in called]


def _room(model: PreTrainedModel) -> int:
    return min(PROBE_TOKENS, most_tokens(model) or PROBE_TOKENS)
