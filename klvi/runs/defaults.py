"""Facts of a loaded model, for the defaults that follow it."""

from __future__ import annotations

from typing import Any

from klvi.engine.scoring import config_number, output_size
from klvi.policy.prior import Prior
from klvi.runs.choices import Facts, chosen, described
from klvi.runs.schema import ProblemConfig


def facts_of(prior: Prior) -> Facts:
    """Size, vocabulary, cache, dtype and device of the prior, an adapter on it left out."""
    model = prior.model
    return Facts(
        parameters=sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name),
        vocabulary=output_size(model),
        cache_bytes=_cache_numbers(model.config) * model.dtype.itemsize,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(prior.device),
    )


def choices_line(asked: ProblemConfig, config: ProblemConfig, prior: Prior) -> str | None:
    """What was chosen for the prior, from `asked` to `config`, in a line; None where nothing."""
    values = chosen(asked, config)
    return described(facts_of(prior), config.model.name, values) if values else None


def _cache_numbers(config: Any) -> int:
    """Keys and values of a token in all layers; an upper bound where a model keeps fewer."""
    heads = config_number(config, "num_attention_heads") or 1
    width = config_number(config, "hidden_size")
    size = config_number(config, "head_dim") or width // heads
    kept = config_number(config, "num_key_value_heads") or heads
    return 2 * max(config_number(config, "num_hidden_layers"), 1) * kept * size
