"""What draws samples: a method of decoding, or what training learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from klvi.contexts import Context
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.samples import Draw
from klvi.targets.base import Target


class Sampler(Protocol):
    """Draws scored completions of contexts."""

    def sample(
        self,
        policy: Policy,
        target: Target,
        contexts: Sequence[Context],
        randomness: Randomness,
    ) -> Draw:
        """A completion per context, with the target's scores."""
        ...

    def adapt(self, draw: Draw, log_target: Tensor, log_policy: Callable[[], Tensor]) -> None:
        """Learn from a draw, after its signals and before the policy learns; most do nothing.

        Args:
            draw: what `sample` gave.
            log_target: `(N,)` log P, nats per sequence.
            log_policy: gives `(N,)` log π under the policy as it is now, at the cost of a pass.
        """
        return

    def reset(self) -> None:
        """Forget what was learned of the target: it is another from now on."""
        return

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`; raises ValueError for a state where there can be none."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but was given {list(state)}")
