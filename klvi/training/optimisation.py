"""The optimizer and its schedule, the same for every objective."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from klvi.policy.policy import Policy

BETA1 = 0.9


@dataclass(frozen=True)
class OptimiserSettings:
    """The optimizer and its schedule; Muon is for the adapter's matrices alone."""

    lr: float
    algorithm: Literal["adamw", "muon"]
    schedule: Literal["linear", "constant", "cosine"]
    warmup: int
    weight_decay: float
    beta2: float
    max_grad_norm: float | None


class Optimisation:
    """The optimizer over a policy's weights, with a schedule that ends at 0 (or is constant).

    A learning rate that decays to 0 matters at the target, where advantages are pure noise.
    """

    def __init__(self, policy: Policy, settings: OptimiserSettings, updates: int) -> None:
        self.peak_lr = settings.lr
        self.parameters = policy.parameters()
        self.adapter = policy.adapter_parameters()
        self.max_grad_norm = settings.max_grad_norm
        self.optimizer = _optimizer(policy, settings)
        self.scheduler: LambdaLR = get_scheduler(
            settings.schedule,
            self.optimizer,
            num_warmup_steps=settings.warmup,
            num_training_steps=updates,
        )
        self.backward: Callable[[Tensor], None] = _backward

    @property
    def lr(self) -> float:
        """The learning rate of the update in progress."""
        return float(self.scheduler.get_last_lr()[0])

    def advance(self) -> None:
        """Go on to the next update's learning rate, also where this one had nothing to learn."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.scheduler.step()

    def follow_schedule(self) -> None:
        """Take the schedule's learning rate at the present update.

        A restored optimizer brings that of the schedule it was saved under, which may have had
        another end: 0 at the end of a run that is now extended.
        """
        scheduler = self.scheduler
        factors = [each(scheduler.last_epoch) for each in scheduler.lr_lambdas]
        rates = [base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates

    def gradients(self) -> list[Tensor]:
        """Those of all weights, zeros where there is none yet."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [p.grad for p in self.parameters if p.grad is not None]

    def step(self) -> float:
        """Clip, step, and clear the gradients; returns the gradient's norm before clipping.

        A gradient that is not finite moves nothing: it would spoil every weight. Nor does one that
        is exactly 0 move the policy, by momentum or weight decay. The value head's may be 0 while
        the policy learns, where all values are clipped.
        """
        if not any(bool(p.grad.any()) for p in self.adapter if p.grad is not None):
            for parameter in self.adapter:
                parameter.grad = None
        limit = torch.inf if self.max_grad_norm is None else self.max_grad_norm
        norm = float(nn.utils.clip_grad_norm_(self.parameters, limit))
        if norm < torch.inf:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm


class JointOptimizer(Optimizer):
    """Several optimizers that step as one, each on parameter groups of its own.

    Groups and state are shared with the parts, so that a schedule, a checkpoint or accelerate sees
    a single optimizer.
    """

    def __init__(self, parts: list[Optimizer]) -> None:
        self._parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of each part."""
        for part in self._parts:
            part.step()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As `load_state_dict` ends: the parts go on from the state and the groups it brought."""
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self._parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]


def _optimizer(policy: Policy, settings: OptimiserSettings) -> Optimizer:
    """AdamW over all weights, or Muon over the adapter's matrices and AdamW over the value head.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) moves every matrix equally far in
    all its directions, so that a reward's finer structure, whose gradients are small, is learned
    as fast as the rest; scaled to AdamW's step as in Liu et al. 2025 (arXiv 2502.16982).
    """
    adapter = policy.adapter_parameters()
    matrices = adapter if settings.algorithm == "muon" else []
    others = [p for p in policy.parameters() if not any(p is matrix for matrix in matrices)]
    lr, decay = settings.lr, settings.weight_decay
    parts: list[Optimizer] = []
    if matrices:
        parts.append(Muon(matrices, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    if others:
        betas = (BETA1, settings.beta2)
        parts.append(AdamW(others, lr=lr, betas=betas, weight_decay=decay, fused=True))
    return parts[0] if len(parts) == 1 else JointOptimizer(parts)


def _backward(loss: Tensor) -> None:
    loss.backward()
