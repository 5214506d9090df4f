"""What generates and scores tokens, and in what batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from klvi.schema import Section, Size

# What the release of vLLM that goes with klvi's own torch pins.
VLLM_NEEDS = "vLLM 0.33 needs torch 2.13.0, transformers below 5.20 and Python 3.11 or later"


class EngineSection(Section):
    """How completions are sampled: always at temperature 1, never truncated."""

    name: Literal["auto", "torch", "graph", "vllm"] = "auto"
    kernels: Literal["auto", "none"] = "auto"
    """auto: faster forms of a model's layers where there are any; none: the model as it is"""
    batch_size: Size | None = None
    """completions generated at once; null: chosen by the model's size, vocabulary and the length"""
    micro_batch_tokens: Annotated[int, Field(ge=1)] | None = None
    """tokens of a scoring pass; null: chosen by the device, the vocabulary and the model's size"""
    memory: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """share of the GPU that vllm takes"""
