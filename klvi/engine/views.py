"""Views of a model: modules of their own on shared weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

M = TypeVar("M", bound=nn.Module)


def view_of(model: M, own: Iterable[Tensor] = ()) -> M:
    """The model again, with modules of its own that hold the very same parameters and buffers.

    Whatever is done to the modules of one view (adapters, merged weights, hooks)
    leaves every other view as it was. Its configuration is a copy, too.

    Args:
        own: parameters of which the view has copies instead.
    """
    copied = set(map(id, own))
    tensors = (*model.parameters(), *model.buffers())
    # deepcopy takes what its memo knows instead of copying it.
    view: M = copy.deepcopy(model, {id(t): t for t in tensors if id(t) not in copied})
    return view


def embeddings_are_tied(model: PreTrainedModel) -> bool:
    """Whether the output embedding reads the input embedding's weights."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def untie(config: PretrainedConfig) -> None:
    """Let a model of `config` save and load the weights of its two embeddings apart."""
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        part.tie_word_embeddings = False
