"""What the first samples say of a reward that they never meet."""

from __future__ import annotations

import math

from torch import Tensor

from klvi.metrics.base_rate import base_rate_bound as base_rate_bound

REMEDIES = (
    "what helps: prompts that lead there (prompts=file), a softer reward that scores what comes "
    "near (reward=sum adds one), or a longer max_new_tokens"
)


def unmet_reward(reward: Tensor, log_potential: Tensor) -> str | None:
    """A line where nothing tells the samples apart or none is in the target; else None.

    Args:
        reward: `(N,)` of independent samples of the prior.
        log_potential: `(N,)` of the target, nats; −inf outside its support.
    """
    count = len(reward)
    rate = f"{base_rate_bound(count):.2g} (95% bound from {count} samples)"
    if bool((log_potential == -math.inf).all()):
        return (
            f"none of {count} samples satisfies the target: its base rate is below {rate}; "
            f"{REMEDIES}, or a lower target.threshold"
        )
    if bool((reward == reward[0]).all()):
        return (
            f"all {count} samples have the reward {float(reward[0]):g}, which tells none from "
            f"another: anything else has a base rate below {rate}; {REMEDIES}"
        )
    return None
