"""The policy: the prior with a LoRA adapter, and, for PPO, a value head on its hidden states."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from klvi.engine.base import Engine, View
from klvi.engine.batching import Batching
from klvi.engine.kernels.install import install
from klvi.engine.memory import out_of_memory
from klvi.engine.merging import is_mergeable, merged_weight
from klvi.engine.micro_batch import MicroBatch, micro_batches
from klvi.engine.scoring import pass_budget
from klvi.engine.torch_engine import TorchEngine
from klvi.engine.views import embeddings_are_tied, untie, view_of
from klvi.errors import UserError
from klvi.files import kind_of, naming
from klvi.policy.adapters import adapt, adapter_config
from klvi.policy.fingerprint import check_fingerprint, write_fingerprint
from klvi.policy.loading import quiet_transformers
from klvi.policy.prior import Prior, with_kernels
from klvi.policy.schema import LoraSection
from klvi.randomness import torch_seeded
from klvi.samples import Completions


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

    Or, to be measured, `whole`: any other model of the prior's tokens, with weights of its own.

    Prior, policy, and the policy with its adapter merged are three views of one set of base
    weights: any number of policies on a prior, trained, decoding and scoring in turn, give the
    numbers that each gives alone. The adapter starts at zero, so that every log-ratio is 0 before
    the first update.

    Attributes:
        model: the base model with the adapter's layers in place.
        lora: what the adapter is; None without one.
        adapted: the same as peft has it; None without an adapter.
        whole: the model, without klvi's kernels, that stands in the prior's place.
        engine: what samples from the model; torch's unless it is replaced.
        batching: how the model's passes are arranged.
        adapter: the LoRA weights by name, in a fixed order.
        adapted_layers: peft's LoRA layers by name.
        left_out: kinds of linear layers that have no adapter, by name, with the reason.
    """

    def __init__(
        self,
        prior: Prior,
        lora: LoraSection | None = None,
        seed: int = 0,
        whole: PreTrainedModel | None = None,
    ) -> None:
        self.prior = prior
        self.lora = lora
        self.value_head: ValueHead | None = None
        self.engine: Engine = TorchEngine()
        self.batching = Batching()
        self.left_out: dict[str, str] = {}
        self._seed = seed
        # Plain views of the prior that nobody decodes with: making one takes longer than merging.
        self._spare: list[PreTrainedModel] = []
        adapted = None
        if lora is not None:
            with quiet_transformers():
                config, self.left_out = adapter_config(prior.model, lora)
                adapted = adapt(view_of(prior.model), config, seed).eval()
            install(adapted, prior.kernels)
        self._hold(adapted, whole)

    def _hold(self, adapted: PeftModel | None, whole: PreTrainedModel | None = None) -> None:
        self.adapted, self.whole = adapted, whole
        self.model: PreTrainedModel = self.prior.model
        if adapted is not None:
            self.model = adapted.get_base_model()
        elif whole is not None:
            # klvi's kernel of adapters knows no kind but plain LoRA.
            tuned = any(isinstance(module, BaseTunerLayer) for module in whole.modules())
            self.model = with_kernels(whole, "none" if tuned else self.prior.kernels)
        # Of a whole model, adapters are a part of it that nobody trains or merges.
        own = self.model if whole is None else nn.Identity()
        self.adapted_layers: dict[str, Any] = {
            name: module for name, module in own.named_modules() if isinstance(module, LoraLayer)
        }
        self.adapter = {n: p for n, p in own.named_parameters() if "lora_" in n}

    def snapshot(self) -> Policy:
        """The policy as it is now: adapter weights of its own, and all else shared."""
        if self.whole is not None:
            return copy.copy(self)  # which nobody trains
        return self._with(self.adapted and view_of(self.adapted, own=self.adapter_parameters()))

    def without_adapter(self) -> Policy:
        """The prior as a policy, with all else of this one."""
        return self._with(None)

    def _with(self, adapted: PeftModel | None) -> Policy:
        policy = copy.copy(self)
        vars(policy).pop("recomputing", None)
        policy._hold(adapted)
        return policy

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
        return self.whole is None and not any(
            bool(weight.any())
            for name, weight in self.adapter.items()
            if "lora_B" in name or "lora_embedding_B" in name
        )

    def add_value_head(self) -> ValueHead:
        """Attach a fresh value head and return it."""
        width = self.model.get_output_embeddings().weight.shape[1]
        with torch_seeded(self._seed):
            self.value_head = ValueHead(width).to(self.device)
        return self.value_head

    def parameters(self) -> list[nn.Parameter]:
        """What is trained: the adapter and, where there is one, the value head."""
        head = [] if self.value_head is None else list(self.value_head.parameters())
        return self.adapter_parameters() + head

    def adapter_parameters(self) -> list[nn.Parameter]:
        """The LoRA weights, in the order of `adapter`."""
        return list(self.adapter.values())

    @property
    def is_mergeable(self) -> bool:
        """Whether `merged` gives a view of the prior, with the adapter in its weights."""
        return self.whole is None and all(map(is_mergeable, self.adapted_layers.values()))

    @contextmanager
    def merged(self) -> Iterator[PreTrainedModel]:
        """The policy as a plain model, for many small forwards: the adapter added into weights.

        A view of its own, whose adapted layers have weights of their own while it lasts. An adapter
        that cannot be added to its layer's weights stays beside them.
        """
        if not self.is_mergeable:
            yield self.model
            return
        view = self._spare.pop() if self._spare else view_of(self.prior.model)
        layers = {view.get_submodule(name): layer for name, layer in self.adapted_layers.items()}
        originals = {module: module.weight for module in layers}
        try:
            for module, layer in layers.items():
                module.weight = nn.Parameter(merged_weight(layer), requires_grad=False)
            yield view
        finally:
            for module, original in originals.items():
                module.weight = original
            self._spare.append(view)

    @cached_property
    def recomputing(self) -> PreTrainedModel:
        """`model`, but its passes keep no activations inside layers: the backward redoes them.

        The layers are told one by one: transformers' own switch takes effect in training mode
        alone, which would bring the prior's dropout back.
        """
        view = view_of(self.model)
        for layer in view.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.gradient_checkpointing = layer.training = True
                layer._gradient_checkpointing_func = partial(_recomputed, layer)
        return view

    def view(self, model: PreTrainedModel, stop_token_ids: tuple[int, ...] | None = None) -> View:
        """What an engine decodes: `model`, which is what `merged` gives, and the value head.

        `stop_token_ids` are the prior's by default.
        """
        stop = stop_token_ids or self.prior.stop_token_ids
        return View(model, stop, self.value_head, self.batching)

    def micro_batches(
        self, completions: Completions, budget: int | None = None
    ) -> Iterator[MicroBatch]:
        """All completions, once, in passes of `budget` tokens; None for what suits the model."""
        return micro_batches(completions, budget or pass_budget(self.model), self.batching)

    @out_of_memory("scoring")
    @torch.no_grad()
    def log_probs(self, completions: Completions, budget: int | None = None) -> Tensor:
        """`(N, T)` log π of given completions, nats per token, float32, 0 in padded places."""
        log_probs = torch.zeros(completions.tokens.shape, device=self.device)
        for batch in self.micro_batches(completions, budget):
            found = batch.forward(self.model).log_probs()
            log_probs[batch.rows, : found.shape[1]] = found.float()
        return log_probs

    @torch.no_grad()
    def set_adapter(self, weights: Iterable[Tensor]) -> None:
        """Copy `weights`, in the order of `adapter_parameters`, into the adapter."""
        for parameter, weight in zip(self.adapter_parameters(), weights, strict=True):
            parameter.copy_(weight)

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
        expected = get_peft_model_state_dict(self.adapted, save_embedding_layers=False)
        if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in state.items()}:
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


def _recomputed(layer: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    """A layer's pass that is done again in the backward pass; both are in evaluation mode.

    The layer itself says that it is in training, so that transformers asks for this.
    """

    def evaluated(*inputs: Any) -> Any:
        layer.training = False
        try:
            return forward(*inputs)
        finally:
            layer.training = True

    return checkpoint(evaluated, *inputs, use_reentrant=False)
