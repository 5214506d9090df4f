"""What the first samples say of a reward that they never meet."""

from __future__ import annotations

import torch
from torch import Tensor

CONFIDENCE = 0.95
REMEDIES = (
    "what helps: prompts that lead there (prompts=file), a softer reward that scores what comes "
    "near (reward=sum adds one), or a longer rollout.max_new_tokens"
)


def base_rate_bound(count: int, confidence: float = CONFIDENCE) -> float:
    """Upper bound on the probability of what none of `count` independent samples was.

    1 − (1 − confidence)^(1/count), which is the rule of three, 3/count, at 95% (Hanley and
    Lippman-Hand 1983).
    """
    return -float(torch.tensor(1 - confidence, dtype=torch.float64).log().div(count).expm1())


def unmet_reward(reward: Tensor, log_evidence: Tensor) -> str | None:
    """A line where nothing tells the samples apart or none is in the target; else None.

    Args:
        reward: `(N,)` or `(N, M)` scores of independent samples of the prior.
        log_evidence: `(N,)` of the target, nats; −inf outside its support.
    """
    count = len(reward)
    rate = f"{base_rate_bound(count):.2g} (95% bound from {count} samples)"
    if bool((log_evidence == -torch.inf).all()):
        return (
            f"none of {count} samples satisfies the target: its base rate is below {rate}; "
            f"{REMEDIES}, or a lower target.threshold"
        )
    scores = reward.reshape(count, -1)
    if bool((scores == scores[0]).all()):
        value = ", ".join(f"{score:g}" for score in scores[0].tolist())
        return (
            f"all {count} samples have the reward {value}, which tells none from another: anything "
            f"else has a base rate below {rate}; {REMEDIES}"
        )
    return None
