"""The optimizer, and how often a run becomes resumable."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from klvi.schema import Section, Text


class OptimSection(Section):
    """The optimizer and its schedule."""

    lr: Annotated[float, Field(ge=0)] | None = None
    """learning rate; null: chosen by the model's size"""
    algorithm: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon: faster where rewards are jagged"""
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    """of the learning rate, after the warm-up"""
    warmup: Annotated[int, Field(ge=0)] = 0
    """updates in which the learning rate rises"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """decoupled from the gradient"""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """decay of the mean squared gradient"""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """gradients are clipped to this norm; null: never"""
    micro_batch_tokens: Annotated[int, Field(ge=1)] | None = None
    """tokens of a pass while learning; null: chosen by the device, the vocabulary and the model's
    size"""
    gradient_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, a third more time"""


class CheckpointSection(Section):
    """How often a run becomes resumable, how many checkpoints are kept, and which is the result."""

    every: Annotated[int, Field(ge=1)] = 25
    """updates between checkpoints"""
    keep: Annotated[int, Field(ge=1)] = 2
    """newest checkpoints that are kept"""
    best: Text | None = None
    """metric by which the best evaluation's policy is kept and becomes adapter/, such as
    eval/reward; of divergences and repetition the smallest is best; null: the last policy"""
