"""Facts of a loaded model, for the defaults that follow it."""

from __future__ import annotations

from typing import Any

from klvi.config.defaults import Facts, chosen, described
from klvi.config.schema import MeasureConfig
from klvi.models.prior import Prior
from klvi.models.scoring import output_size


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


def choices_line(asked: MeasureConfig, config: MeasureConfig, prior: Prior) -> str | None:
    """What was chosen for the prior, from `asked` to `config`, in a line; None where nothing."""
    values = chosen(asked, config)
    return described(facts_of(prior), config.model.name, values) if values else None


def _cache_numbers(config: Any) -> int:
    """Keys and values of a token in all layers; an upper bound where a model keeps fewer."""
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 1
    width = getattr(text, "hidden_size", None) or 0
    size = getattr(text, "head_dim", None) or width // heads
    kept = getattr(text, "num_key_value_heads", None) or heads
    layers = getattr(text, "num_hidden_layers", None) or 1
    return int(2 * layers * kept * size)
