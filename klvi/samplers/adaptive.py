"""An earlier policy, renewed whenever the present one is nearer to the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.samplers.schema import AdaptiveProposal
from klvi.samples import Draw
from klvi.schema import check_fields
from klvi.targets.base import Target


class Adaptive(Sampler):
    """KL-adaptive DPG's proposal (Khalifa et al. 2021, arXiv 2012.11635, algorithm 1)."""

    def __init__(
        self, ancestral: Ancestral | None = None, divergence: Literal["kl", "tv"] = "kl"
    ) -> None:
        self.ancestral = ancestral or Ancestral()
        self.divergence = divergence
        check_fields(AdaptiveProposal, self)
        self._policy: Policy | None = None
        self._earlier: Policy | None = None
        # Those of the earlier policy, until there is one to take them.
        self._restored: list[Tensor] | None = None
        self._gain = 0.0

    def sample(
        self,
        policy: Policy,
        target: Target,
        contexts: Sequence[Context],
        randomness: Randomness,
    ) -> Draw:
        """Completions of the earlier policy, whose log-probabilities they have."""
        self._policy = policy
        if self._earlier is None:
            self._earlier = policy.snapshot()
            self._earlier.set_adapter(self._restored or policy.adapter_parameters())
        draw = self.ancestral.sample(self._earlier, target, contexts, randomness)
        return replace(draw, represents="sampler")

    def adapt(self, draw: Draw, log_target: Tensor, log_policy: Callable[[], Tensor]) -> None:
        """Take the present policy where it is nearer to the target, on samples so far."""
        self._gain += self.gain(draw, log_target, log_policy)
        if self._gain > 0:
            assert self._policy is not None, "adapts to what was sampled"
            assert self._earlier is not None
            self._earlier.set_adapter(self._policy.adapter_parameters())
            self._gain = 0.0

    def gain(self, draw: Draw, log_target: Tensor, log_policy: Callable[[], Tensor]) -> float:
        """By how much the policy is nearer to the target than the proposal q is.

        E_p[log π − log q] = KL(p‖q) − KL(p‖π) with divergence kl, TV(p, q) − TV(p, π) with tv.
        """
        samples = draw.samples
        log_proposal = samples.log_policy_sequence
        log_weights = log_target.double() - samples.log_drawn
        if bool(torch.isneginf(log_weights).all()):
            return 0.0
        weights = (log_weights - log_weights.logsumexp(0)).exp() * len(log_weights)
        log_ratio = log_policy().double() - log_proposal
        if self.divergence == "kl":
            return float((weights * log_ratio).mean())
        return float(0.5 * ((1 - weights).abs() - (log_ratio.exp() - weights).abs()).mean())

    def reset(self) -> None:
        """Forget what was gained towards another target."""
        self._gain = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The earlier policy's weights, and what the present one has gained on it."""
        weights = self._restored
        if self._earlier is not None:
            weights = [parameter.detach() for parameter in self._earlier.adapter_parameters()]
        return {"weights": weights, "gain": self._gain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`."""
        self._earlier, self._restored = None, state["weights"]
        self._gain = float(state["gain"])
