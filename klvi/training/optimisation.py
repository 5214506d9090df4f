"""The optimizer and its schedule, the same for every objective."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from klvi.config.schema import OptimSection

BETA1 = 0.9


class Optimisation:
    """AdamW over the trained parameters, with a schedule that ends at 0 (or is constant).

    A learning rate that decays to 0 matters at the target, where advantages are pure noise.
    """

    def __init__(self, parameters: list[nn.Parameter], config: OptimSection, updates: int) -> None:
        self.parameters = parameters
        self.max_grad_norm = config.max_grad_norm
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            parameters,
            lr=config.lr,
            betas=(BETA1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.scheduler: LambdaLR = get_scheduler(
            config.schedule,
            self.optimizer,
            num_warmup_steps=config.warmup,
            num_training_steps=updates,
        )
        self.backward: Callable[[Tensor], None] = _backward

    @property
    def lr(self) -> float:
        """The learning rate of the update in progress."""
        return float(self.scheduler.get_last_lr()[0])

    def step(self) -> float:
        """Clip, step, and clear the gradients; returns the gradient's norm before clipping.

        A gradient that is not finite moves nothing: it would spoil every weight.
        """
        limit = torch.inf if self.max_grad_norm is None else self.max_grad_norm
        norm = float(nn.utils.clip_grad_norm_(self.parameters, limit))
        if norm < torch.inf:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm


def _backward(loss: Tensor) -> None:
    loss.backward()
