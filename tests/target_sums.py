"""Targets against sums over all sequences of the enumerable prior."""

from __future__ import annotations

from collections.abc import Sequence

from support import LENGTH, LETTERS, letter_reward
from torch import Tensor

from klvi.contexts import Context, contexts_of
from klvi.evaluation.enumeration import ExactEvaluator
from klvi.policy.policy import Policy
from klvi.samples import Samples
from klvi.targets.base import Target

NO_PROMPT = (Context(0),)
PROMPTS = contexts_of(["a", "b c"])


class Members:
    """Three scores of letters beside the reward."""

    name = "members"

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, texts: list[str], contexts: list[Context]) -> dict[str, Tensor]:
        late = letter_reward(texts)
        short = -0.1 * letter_reward(texts).new_tensor([len(text) for text in texts])
        members = {"late": late, "short": short, "odd": (late * 7).sin()}
        scaled = {name: self.scale * values for name, values in members.items()}
        return {"reward": sum(scaled.values()) / 3, **scaled}


def exact(
    target: Target, policy: Policy, contexts: Sequence[Context] = NO_PROMPT
) -> ExactEvaluator:
    """Everything about all sequences; a target that has not been fitted is fitted to them."""
    listed = ExactEvaluator(policy, target, LETTERS, LENGTH, contexts)
    if target.samples_to_fit(0) and not target.state():
        listed.target = target.fitted(listed.scored(0))
    return listed


def distribution(target: Target, policy: Policy, contexts: Sequence[Context] = NO_PROMPT) -> Tensor:
    """`(C, S)` p(x), which sums to 1 in each context."""
    return exact(target, policy, contexts).log_targets(0).softmax(1)


def log_z(target: Target, policy: Policy, contexts: Sequence[Context] = NO_PROMPT) -> Tensor:
    """`(C,)` log Z, nats."""
    return exact(target, policy, contexts).log_targets(0).logsumexp(1)


def every(listed: ExactEvaluator) -> Samples:
    """All sequences, as scored samples of the prior."""
    return listed.scored(0)
