"""The policy: the prior with a LoRA adapter, and, for PPO, a value head on its hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from klvi.engine.base import Decoded, Engine, Prefixes, View
from klvi.engine.batching import Batching
from klvi.engine.kernels.install import install
from klvi.engine.merging import is_mergeable, merged_weight
from klvi.engine.torch_engine import TorchEngine
from klvi.engine.views import embeddings_are_tied, untie, view_of
from klvi.errors import UserError
from klvi.files import kind_of, naming
from klvi.policy.adapters import adapt, adapter_config
from klvi.policy.fingerprint import check_fingerprint, write_fingerprint
from klvi.policy.loading import quiet_transformers
from klvi.policy.prior import Prior
from klvi.policy.schema import LoraSection


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

    Prior, policy, and the policy with its adapter merged are three views of one set of base
    weights: any number of policies on a prior, trained, decoding and scoring in turn, give the
    numbers that each gives alone. The adapter starts at zero, so that every log-ratio is 0 before
    the first update.

    Attributes:
        model: the base model with the adapter's layers in place.
        lora: what the adapter is; None without one.
        adapted: the same as peft has it; None without an adapter.
        engine: what samples from the model; torch's unless it is replaced.
        batching: how the model's passes are arranged.
        adapted_layers: peft's LoRA layers by name.
        left_out: kinds of linear layers that have no adapter, by name, with the reason.
    """

    def __init__(self, prior: Prior, lora: LoraSection | None = None, seed: int = 0) -> None:
        self.prior = prior
        self.model: PreTrainedModel = prior.model
        self.adapted: PeftModel | None = None
        self.value_head: ValueHead | None = None
        self.engine: Engine = TorchEngine()
        self.batching = Batching()
        self.left_out: dict[str, str] = {}
        self._seed = seed
        self.lora = lora
        if lora is not None:
            self.model = view_of(prior.model)
            with torch.random.fork_rng(devices=[]), quiet_transformers():
                torch.manual_seed(seed)
                config, self.left_out = adapter_config(prior.model, lora)
                torch.manual_seed(seed)
                self.adapted = adapt(self.model, config)
            self.adapted.eval()
            install(self.model, prior.kernels)
        self.adapted_layers: dict[str, Any] = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, LoraLayer)
        }
        self._adapter = {n: p for n, p in self.model.named_parameters() if "lora_" in n}

    @property
    def scores_while_decoding(self) -> bool:
        """Whether decoding's log-probabilities are those that training will compute.

        Not in lower precision than float32, step by step as decoding goes, nor in an engine whose
        kernels round in their own way.
        """
        low = self.model.dtype in {torch.bfloat16, torch.float16}
        return self.engine.exact_log_probs and not low

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.prior.device

    @property
    def is_prior(self) -> bool:
        """Whether there is no adapter, or one that adds nothing, as before the first update."""
        return not any(
            bool(weight.any())
            for name, weight in self._adapter.items()
            if "lora_B" in name or "lora_embedding_B" in name
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
        return list(self._adapter.values())

    @property
    def adapter_names(self) -> list[str]:
        """The names of `adapter_parameters` in the model."""
        return list(self._adapter)

    @property
    def is_mergeable(self) -> bool:
        """Whether `merged` gives a plain model, with the adapter in its weights."""
        return all(map(is_mergeable, self.adapted_layers.values()))

    @cached_property
    def _merged_view(self) -> PreTrainedModel:
        return view_of(self.prior.model)

    @contextmanager
    def merged(self) -> Iterator[PreTrainedModel]:
        """The policy as a plain model, for many small forwards: the adapter added into weights.

        A view of its own, whose adapted layers have weights of their own while it lasts. An adapter
        that cannot be added to its layer's weights stays beside them.
        """
        if not self.is_mergeable:
            yield self.model
            return
        view = self._merged_view
        layers = {view.get_submodule(name): layer for name, layer in self.adapted_layers.items()}
        originals = {module: module.weight for module in layers}
        for module, layer in layers.items():
            module.weight = nn.Parameter(merged_weight(layer), requires_grad=False)
        try:
            yield view
        finally:
            for module, original in originals.items():
                module.weight = original

    def view(self, model: PreTrainedModel, stop_token_ids: tuple[int, ...] | None = None) -> View:
        """What an engine decodes: `model`, which is what `merged` gives, and the value head.

        `stop_token_ids` are the prior's by default.
        """
        stop = stop_token_ids or self.prior.stop_token_ids
        return View(model, stop, self.value_head, self.batching)

    def complete(
        self, model: PreTrainedModel, prompts: tuple[Tensor, Tensor], uniforms: Tensor
    ) -> Decoded:
        """Completions of `prompts`, tokens `(N, P)` and lengths `(N,)`, by what `merged` gives.

        `uniforms` `(N, T)` are the random numbers of T steps.
        """
        return self.engine.complete(self.view(model), Prefixes(*prompts), uniforms)

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

    @torch.no_grad()
    def random_adapter(self, norm: float = 0.5, seed: int = 0) -> dict[str, Tensor]:
        """Adapter weights by name, which change each layer's weight by `norm` times its norm."""
        generator = torch.Generator().manual_seed(seed)
        weights = {
            name: torch.randn(p.shape, generator=generator).to(p)
            for name, p in self._adapter.items()
        }
        for name, layer in self.adapted_layers.items():
            down, up = (
                next(n for n in weights if n.startswith(f"{name}.lora_") and kind in n)
                for kind in ("_A", "_B")
            )
            scaling = float(next(iter(layer.scaling.values())))
            a, b = weights[down].float().flatten(1), weights[up].float().flatten(1)
            # ‖BA‖² = tr(BᵀB·AAᵀ), without the product itself.
            change = scaling * float(((b.T @ b) * (a @ a.T)).sum().sqrt())
            base = getattr(layer.get_base_layer(), "weight", None)
            size = 1.0 if base is None or base.is_quantized else float(base.float().norm())
            weights[up] *= norm * max(size, 1e-6) / change
        return weights

    def save_adapter(self, directory: Path) -> None:
        """Write the adapter as a PEFT folder."""
        if self.adapted is not None:
            # Of adapted embeddings peft would save the base weights as well.
            self.adapted.save_pretrained(directory, save_embedding_layers=False)
            write_fingerprint(self.prior, directory)

    def load_adapter(self, directory: Path, *, any_prior: bool = False) -> None:
        """Take the adapter's weights from a PEFT folder, trained on this prior unless any will do.

        Raises UserError where the folder holds none, or those of another model.
        """
        file = directory / "adapter_model.safetensors"
        if self.adapted is None or kind_of(file) != "a file":
            raise UserError(f"{directory}: no adapter (adapter_model.safetensors) in this folder")
        with naming(file, UserError):
            state = load_file(file, device=str(self.device))
        expected = {k: v.shape for k, v in _adapter_state(self.adapted).items()}
        if expected != {k: v.shape for k, v in state.items()}:
            raise UserError(f"{directory}: this adapter belongs to another model or lora section")
        whole = [k for k, v in state.items() if not v.is_floating_point()]
        if whole:
            raise UserError(f"{directory}: its adapter holds whole numbers, no weights: {whole[0]}")
        infinite = [k for k, v in state.items() if not bool(v.isfinite().all())]
        if infinite:
            raise UserError(
                f"{directory}: its adapter is not finite (NaN or infinite): {infinite[0]}; "
                "use another checkpoint"
            )
        if not any_prior:
            check_fingerprint(self.prior, directory)
        set_peft_model_state_dict(self.adapted, state)

    def export(self) -> PreTrainedModel:
        """A plain model with the adapter in its weights, to be saved.

        Raises UserError where the adapter cannot be added to the weights of its layers.
        """
        model = view_of(self.prior.plain)
        for name, layer in self.adapted_layers.items():
            if not is_mergeable(layer):
                raise UserError(f"layer {name}: its adapter cannot be merged; keep adapter/")
            module = model.get_submodule(name)
            module.weight = nn.Parameter(merged_weight(layer), requires_grad=False)
        if embeddings_are_tied(self.prior.plain) and not embeddings_are_tied(model):
            untie(model.config)
        return model


def _adapter_state(adapted: PeftModel) -> dict[str, Tensor]:
    state: dict[str, Tensor] = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return state
