"""Small random models of any kind that transformers has, saved as users have them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from klvi.policy.adapters import adapt, adapter_config
from klvi.policy.loading import quiet_transformers
from klvi.policy.schema import LoraSection

VOCABULARY = 96
# What configurations call their sizes; a model takes those that its own configuration has.
_WIDTH = ("hidden_size", "n_embd", "d_model", "lru_width", "attention_hidden_size")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads")
_FEED_FORWARD = ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "linear_num_value_heads")
_HEAD_WIDTH = ("head_dim", "kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim")
_EIGHTS = (
    *("v_head_dim", "sliding_window", "attention_window_size", "attention_chunk_size"),
    *("state_size", "mamba_d_state", "num_heads", "rotary_dim", "chunk_size", "mamba_chunk_size"),
    *("linear_key_head_dim", "linear_value_head_dim", "rwkv_head_size"),
)
SIZES: dict[str, int] = {
    **dict.fromkeys(_WIDTH, 32),
    **dict.fromkeys(_LAYERS, 4),
    **dict.fromkeys(_HEADS, 4),
    **dict.fromkeys(_FEED_FORWARD, 64),
    **dict.fromkeys(_POSITIONS, 128),
    **dict.fromkeys(_EXPERTS, 4),
    **dict.fromkeys(_HEAD_WIDTH, 8),
    **dict.fromkeys(_EIGHTS, 8),
    **{"vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **{"num_key_value_heads": 2, "num_kv_heads": 2, "linear_num_key_heads": 2},
    **{"decoder_layers": 2, "encoder_layers": 2, "encoder_attention_heads": 4},
    **{"num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1},
    **{"shared_expert_intermediate_size": 32, "intermediate_size_mlp": 64, "embedding_size": 32},
    **{"n_shared_experts": 1, "first_k_dense_replace": 1, "word_embed_proj_dim": 32},
    **{"mamba_num_heads": 4, "mamba_head_dim": 16, "expand": 2, "n_groups": 1},
    **{"mamba_n_heads": 4, "mamba_d_head": 16, "time_step_rank": 4, "conv_kernel": 4},
}
# Where these sizes make no model of a kind.
OWN_SIZES: dict[str, dict[str, Any]] = {
    "bert": {"is_decoder": True},
    "roberta": {"is_decoder": True},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "jamba": {
        **{"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
        **{"expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False},
    },
    "deepseek_v2": {"num_key_value_heads": 4},
    "deepseek_v3": {"num_key_value_heads": 4},
    "minicpm3": {"num_key_value_heads": 4},
    "falcon": {"new_decoder_architecture": True},
    "bamba": {"attn_layer_indices": [1, 3], "mamba_n_groups": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
}


def small_config(model_type: str, **changes: Any) -> PretrainedConfig:
    """A configuration of the text part of a `model_type`, a few thousand weights large."""
    defaults = CONFIG_MAPPING[model_type]().get_text_config()
    kind = type(defaults)
    sizes = {
        name: value
        for name, value in SIZES.items()
        if _is_set(defaults, name)
        and name not in kind.attribute_map
        and not isinstance(inspect.getattr_static(kind, name, 0), property)
    }
    return kind(**(sizes | OWN_SIZES.get(model_type, {}) | changes))


def _is_set(config: PretrainedConfig, name: str) -> bool:
    try:
        return hasattr(config, name)
    except RuntimeError:  # a value of each layer
        return False


def small_model(model_type: str, seed: int = 0, spread: float = 0.2, **changes: Any) -> Any:
    """A random model whose next tokens are far from equally likely; `spread` of its weights."""
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(small_config(model_type, **changes)).eval().float()
        for weight in model.parameters():
            if weight.dim() >= 2:
                nn.init.normal_(weight, std=spread)
    return model


def small_tokenizer(size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """One token a word: w3, w4, …, after the special ones."""
    words = ["<pad>", "<s>", "</s>", *(f"w{number}" for number in range(3, size))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def save(model: PreTrainedModel, folder: Path) -> Path:
    """Write `model` with a tokenizer; `model.path=folder` loads both."""
    with quiet_transformers():
        model.save_pretrained(folder)
        small_tokenizer().save_pretrained(folder)
    return folder


def save_adapter(
    base: Path, folder: Path, targets: list[str] | None = None, spread: float = 0.1
) -> Path:
    """Write a peft adapter of random weights for the model in `base`, which it names."""
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_pretrained(base)
        config, _ = adapter_config(model, LoraSection(r=4, targets=targets))
        adapted: PeftModel = adapt(model, config)
        torch.manual_seed(1)
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                nn.init.normal_(weight, std=spread)
        adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder
