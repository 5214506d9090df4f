"""Policies on small random models of any kind, without a folder."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from klvi.contexts import contexts_of
from klvi.engine.kernels.install import Kernels
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior, with_kernels
from klvi.policy.schema import LoraSection
from scripts.small_models import small_model, small_tokenizer

# The shortest and the longest are 1 and 6 tokens with the start token.
PROMPTS = contexts_of(["", "w5 w6 w7", "w9 w8 w7 w6 w5"])


def prior_of(plain: PreTrainedModel, name: str = "small", kernels: Kernels = "none") -> Prior:
    """What loading makes of a model."""
    plain.requires_grad_(False)
    return Prior(
        name,
        with_kernels(plain, kernels),
        plain,
        small_tokenizer(),
        start_token_id=1,
        stop_token_ids=(2,),
        kernels=kernels,
    )


def small_policy(
    model_type: str,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    targets: list[str] | None = None,
    kernels: Kernels = "none",
    **changes: Any,
) -> Policy:
    """A fresh policy on a random model of two layers."""
    sizes = dict.fromkeys(("num_hidden_layers", "n_layer"), 2) | changes
    plain = small_model(model_type, seed, **sizes).to(dtype)
    return Policy(prior_of(plain, model_type, kernels), LoraSection(r=2, targets=targets))
