"""Engines by their names."""

from __future__ import annotations

from typing import Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from klvi.engine.base import Engine
from klvi.engine.graph_engine import GraphEngine, can_be_recorded
from klvi.engine.torch_engine import TorchEngine
from klvi.errors import UserError

Name = Literal["auto", "torch", "graph", "vllm"]


def build_engine(
    name: Name,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    title: str,
    longest: int,
    memory: float,
) -> Engine:
    """The engine called `name`; `auto` is graph on CUDA where the model's cache allows it.

    Args:
        model: of the architecture and on the device of all views that it is given later.
        title: what the user calls the model.
        longest: tokens of prompt and completion together.
        memory: share of the GPU's memory that vLLM takes.

    Raises UserError where the engine cannot run this model here.
    """
    on_cuda = model.device.type == "cuda"
    if name == "vllm":
        from klvi.engine.vllm_engine import VLLMEngine

        return VLLMEngine(model, tokenizer, title=title, longest=longest, memory=memory)
    if name == "graph" and not on_cuda:
        raise UserError("engine=graph: it needs CUDA, and this run is on a CPU; use engine=torch")
    if name == "graph" or (name == "auto" and on_cuda and can_be_recorded(model)):
        return GraphEngine()
    return TorchEngine()
