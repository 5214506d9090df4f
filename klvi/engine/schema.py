"""How completions are sampled, and by what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from klvi.schema import Section, Size

# What the release of vLLM that goes with klvi's own torch pins.
VLLM_NEEDS = "vLLM 0.33 needs torch 2.13.0, transformers below 5.20 and Python 3.11 or later"


class RolloutSection(Section):
    """How completions are sampled: always at temperature 1, never truncated.

    A null batch size is chosen by the model's size, its vocabulary and the length.
    """

    max_new_tokens: Size = 48
    batch_size: Size | None = None
    micro_batch_tokens: Annotated[int, Field(ge=1)] | None = None
    samples_per_prompt: Size | None = None
    engine: Literal["torch", "graph", "vllm"] = "torch"
    engine_memory: Annotated[float, Field(gt=0, lt=1)] = 0.3


class CheckedRollout(Section):
    """How far completions are checked."""

    max_new_tokens: Size = 48
