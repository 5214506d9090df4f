"""The one switch: which of klvi's own kernels a model computes with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from klvi.engine.kernels.activations import fuse_activations
from klvi.engine.kernels.lora import fuse_lora
from klvi.engine.kernels.products import fuse_linear

Kernels = Literal["auto", "none"]

# What each does to the modules of a model; a module that it does not know stays as it is.
KERNELS: dict[str, Callable[[nn.Module], None]] = {
    "activations": fuse_activations,
    "products": fuse_linear,
    "lora": fuse_lora,
}


def install(model: nn.Module, kernels: Kernels = "auto") -> None:
    """Let the modules of `model` compute with klvi's kernels; `none` leaves all as they are.

    The weights stay where they are; a second call changes nothing.
    """
    if kernels == "none":
        return
    for fuse in KERNELS.values():
        fuse(model)
