"""What the training loop asks of an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from klvi.samples import Samples
from klvi.targets.base import Target

Signals = dict[str, Tensor]
Statistics = dict[str, float]


@dataclass(frozen=True)
class Prediction:
    """What the policy says now of a part of the rollout, with gradients.

    Attributes:
        log_policy: `(n, T)`, nats per token, 0 in padded places.
        values: `(n, T)`, 0 in padded places; None without a value head.
        mask: `(n, T)` bool.
        entropy: `(n, T)` of the next-token distributions, nats, without gradient; None where it
            was not asked for.
    """

    log_policy: Tensor
    values: Tensor | None
    mask: Tensor
    entropy: Tensor | None = None


@dataclass(frozen=True)
class Totals:
    """Sizes of the whole minibatch, of which a loss may see one part at a time.

    Losses divide by these, not by the size of the part: the gradient of a minibatch is then the
    sum over its parts, however it is cut.
    """

    sequences: int
    tokens: int


class Objective(ABC):
    """A way to reach a target by training: signals from a rollout, and a loss on them.

    Attributes:
        name: as on the command line.
        epochs: passes over each rollout.
        minibatches: optimizer steps per pass.
        needs_values: whether the policy needs a value head.
        trainer: TRL's trainer for it, whose callbacks and state surround the loop where the
            installed TRL has it; None for none.
    """

    name: str
    epochs: int = 1
    minibatches: int = 1
    needs_values: bool = False
    trainer: Literal["ppo"] | None = None

    @abstractmethod
    def signals(
        self, samples: Samples, target: Target, log_target: Tensor
    ) -> tuple[Signals, Statistics]:
        """What the loss needs of a scored rollout, computed once.

        Args:
            samples: N scored samples. Their `log_policy` is that of the policy, or of the earlier
                policy that proposed them, and `log_drawn` the density of what drew them.
            target: what is aimed at by now: the target itself, or a tempered one on the way to it.
            log_target: `(N,)` its log P(x), unnormalised, nats per sequence; -inf is allowed.

        Returns:
            Tensors of first dimension N, cut like the samples; and numbers for the log. No
            signals at all mean that this rollout teaches nothing and the update is skipped.
        """

    @abstractmethod
    def loss(
        self, prediction: Prediction, samples: Samples, signals: Signals, totals: Totals
    ) -> tuple[Tensor, Statistics]:
        """A part's share of a minibatch's loss, a scalar, and of its statistics."""

    def stop_early(self, statistics: Statistics) -> bool:
        """Whether to leave the remaining passes over this rollout, after a minibatch."""
        return False

    def trainer_arguments(self, beta: float) -> dict[str, Any]:
        """Its own settings as TRL's trainer spells them, at a target's β."""
        return {}

    def reset(self) -> None:  # noqa: B027 (most objectives estimate nothing of it)
        """Forget what was estimated of the target: it is another from now on."""

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs beside the policy and the optimizer."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`; raises ValueError for a state where there can be none."""
        if state:
            raise ValueError(f"objective {self.name} keeps no state, but was given {list(state)}")
