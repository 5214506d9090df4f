"""The policy: the prior with a LoRA adapter, and, for PPO, a value head on its hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from klvi.config.schema import LoraSection
from klvi.errors import UserError
from klvi.models.decoding import Decoder, decode
from klvi.models.graph_decoding import graph_decode
from klvi.models.lora import fuse_lora, merged_weight
from klvi.models.packing import computing_with, pack, packable
from klvi.models.prior import Prior, quiet_transformers


class ValueHead(nn.Module):
    """V(s): expected return from a prefix, read off the policy's final hidden state.

    Starts at 0 everywhere. The trunk is shared, the gradient is not: the policy's features are
    trained by the policy's loss alone, so that the value loss cannot move the policy.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values `(...)`, in units of the reward, of hidden states `(..., H)`."""
        values: Tensor = self.output(torch.tanh(self.hidden(hidden.detach().float())))
        return values.squeeze(-1)


class Policy:
    """π = π0 + LoRA; where `lora` is None, π is the prior itself and there is nothing to train.

    One set of base weights serves both: the prior is the policy with its adapter off. The adapter
    starts at zero, so that every log-ratio is 0 before the first update.

    Attributes:
        decoder: what samples from the model; klvi's own `decode` unless it is replaced.
    """

    def __init__(self, prior: Prior, lora: LoraSection | None = None, seed: int = 0) -> None:
        self.prior = prior
        self.adapted: PeftModel | None = None
        self.value_head: ValueHead | None = None
        self.decoder: Decoder = decode
        self._seed = seed
        self._packed_head: Tensor | None = None
        if lora is not None:
            with torch.random.fork_rng(devices=[]), quiet_transformers():
                torch.manual_seed(seed)
                self.adapted = get_peft_model(prior.model, _lora_config(prior.model, lora))
            self.adapted.eval()
            fuse_lora(self.model)
        modules = list(self.model.modules())
        self._lora_layers: list[Any] = [m for m in modules if isinstance(m, LoraLayer)]
        self._lora_places = [
            (parent, name, child)
            for parent in modules
            for name, child in parent.named_children()
            if isinstance(child, LoraLayer)
        ]
        self._adapter = [p for name, p in self.model.named_parameters() if "lora_" in name]

    @property
    def model(self) -> PreTrainedModel:
        """The base model with the adapter's layers in place."""
        return self.prior.model

    @property
    def scores_while_decoding(self) -> bool:
        """Whether decoding's log-probabilities are those that training will compute.

        Not in lower precision than float32, step by step as decoding goes, nor in an engine whose
        kernels round in their own way.
        """
        low = self.model.dtype in {torch.bfloat16, torch.float16}
        return self.decoder in {decode, graph_decode} and not low

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.prior.device

    @property
    def is_prior(self) -> bool:
        """Whether there is no adapter, or one that adds nothing, as before the first update."""
        return not any(
            bool(weight.any())
            for layer in self._lora_layers
            for weight in layer.lora_B.parameters()
        )

    def add_value_head(self) -> ValueHead:
        """Attach a fresh value head and return it."""
        width = self.model.get_output_embeddings().weight.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self.value_head = ValueHead(width).to(self.device)
        return self.value_head

    def parameters(self) -> list[nn.Parameter]:
        """What is trained: the adapter and, where there is one, the value head."""
        head = [] if self.value_head is None else list(self.value_head.parameters())
        return self.adapter_parameters() + head

    def adapter_parameters(self) -> list[nn.Parameter]:
        """The LoRA weights, in a fixed order."""
        return self._adapter

    @contextmanager
    def as_prior(self) -> Iterator[PreTrainedModel]:
        """The model as π0, with the layers it had before the adapter came."""
        held = [getattr(parent, name) for parent, name, _ in self._lora_places]
        for parent, name, layer in self._lora_places:
            setattr(parent, name, layer.get_base_layer())
        try:
            yield self.model
        finally:
            for (parent, name, _), layer in zip(self._lora_places, held, strict=True):
                setattr(parent, name, layer)

    @contextmanager
    def merged(self) -> Iterator[PreTrainedModel]:
        """The model as π with the adapter added into the base weights, for many small forwards.

        Afterwards the base weights are the very tensors they were: nothing is subtracted.
        """
        layers = [m.get_base_layer() for m in self._lora_layers]
        originals = [layer.weight.data for layer in layers]
        for layer, module in zip(layers, self._lora_layers, strict=True):
            layer.weight.data = merged_weight(module)
        try:
            with self.as_prior():
                yield self.model
        finally:
            for layer, original in zip(layers, originals, strict=True):
                layer.weight.data = original

    @contextmanager
    def packed(self) -> Iterator[None]:
        """Inside `merged`, on a CPU: large layers laid out for the few rows of decoding.

        The output embedding, which no adapter changes, stays laid out for the next rollout.
        """
        head = self.model.get_output_embeddings()
        layers = packable(self.model.modules())
        weights = {layer: pack(layer) for layer in layers if layer is not head}
        if head in layers:
            self._packed_head = pack(head) if self._packed_head is None else self._packed_head
            weights[head] = self._packed_head
        with computing_with(weights):
            yield

    @contextmanager
    def recomputing(self, wanted: bool = True) -> Iterator[None]:
        """Forward passes that keep no activations inside layers; the backward pass redoes them.

        The layers are told one by one: transformers' own switch takes effect in training mode
        alone, which would bring the prior's dropout back.
        """
        if not wanted:
            yield
            return
        layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        for layer in layers:
            layer.gradient_checkpointing = layer.training = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        try:
            yield
        finally:
            for layer in layers:
                layer.gradient_checkpointing = layer.training = False

    @contextmanager
    def with_adapter(self, weights: list[Tensor] | None) -> Iterator[None]:
        """The policy with `weights` (from `snapshot`) as its adapter; None leaves it as it is."""
        parameters = self.adapter_parameters()
        if weights is None:
            yield
            return
        current = [p.data for p in parameters]
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.data = weight
        try:
            yield
        finally:
            for parameter, weight in zip(parameters, current, strict=True):
                parameter.data = weight

    def snapshot(self) -> list[Tensor]:
        """A copy of the adapter's weights."""
        return [p.detach().clone() for p in self.adapter_parameters()]

    def zero_adapter(self) -> list[Tensor]:
        """Weights for `with_adapter` that make the policy the prior."""
        return [torch.zeros_like(p) for p in self.adapter_parameters()]

    def save_adapter(self, directory: Path) -> None:
        """Write the adapter as a PEFT folder."""
        if self.adapted is not None:
            self.adapted.save_pretrained(directory)

    def load_adapter(self, directory: Path) -> None:
        """Take the adapter's weights from a PEFT folder.

        Raises UserError where the folder holds none, or those of another model.
        """
        file = directory / "adapter_model.safetensors"
        if self.adapted is None or not file.is_file():
            raise UserError(f"{directory}: no adapter (adapter_model.safetensors) in this folder")
        state = load_file(file, device=str(self.device))
        expected = {k: v.shape for k, v in get_peft_model_state_dict(self.adapted).items()}
        if expected != {k: v.shape for k, v in state.items()}:
            raise UserError(f"{directory}: this adapter belongs to another model or lora section")
        set_peft_model_state_dict(self.adapted, state)

    def merge_and_unload(self) -> PreTrainedModel:
        """The plain model with the adapter merged for good; the policy is used up."""
        if self.adapted is None:
            return self.model
        merged: PreTrainedModel = self.adapted.merge_and_unload()
        return merged


def _lora_config(model: PreTrainedModel, lora: LoraSection) -> LoraConfig:
    """No dropout: rollouts, log-probabilities and gradients are of one and the same policy.

    Raises UserError where a target names no module of the model.
    """
    modules = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    missing = [target for target in lora.targets or [] if target not in modules]
    if missing:
        linear = sorted(
            {
                name.rsplit(".", 1)[-1]
                for name, module in model.named_modules()
                if isinstance(module, nn.Linear | Conv1D)
            }
        )
        raise UserError(
            f"lora.targets={missing}: no such layer in this model; it has {', '.join(linear)} "
            "(lora.targets=null takes all)"
        )
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        target_modules=lora.targets or "all-linear",
        lora_dropout=0.0,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
