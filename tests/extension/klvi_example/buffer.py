"""A proposal with a memory: completions of earlier rollouts are learned from again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.rewards.scoring import scored
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.samples import Cost, Draw, Samples
from klvi.targets.base import Target


class Buffer(Sampler):
    """Of each rollout a `share`, by chance, is taken from the last `size` completions.

    A completion keeps the density of the policy that drew it, and has the log-probability of the
    policy as it is now: the difference is its weight towards that. It is neither decoded nor scored
    by prior and reward again.
    """

    def __init__(self, ancestral: Ancestral, share: float = 0.5, size: int = 1024) -> None:
        self.ancestral = ancestral
        self.share = share
        self.size = size
        self._kept: Samples | None = None
        self._randomness: Randomness | None = None

    def sample(
        self,
        policy: Policy,
        target: Target,
        contexts: Sequence[Context],
        randomness: Randomness,
    ) -> Draw:
        """A completion per context, new or from the buffer, weighted towards the policy."""
        # Of all rows: `adapt` is given those of all processes.
        self._randomness = replace(randomness, first_row=0)
        places = self._places(torch.tensor([context.row for context in contexts]), randomness)
        new, old = (places < 0).nonzero()[:, 0], (places >= 0).nonzero()[:, 0]
        parts, tokens = [], 0
        if len(new):
            drawn = self.ancestral.complete(policy, _at(contexts, new), randomness, new)
            parts.append(scored(drawn, target.scorers, update=randomness.update))
            tokens += 2 * int(drawn.lengths.sum())
        if len(old):
            assert self._kept is not None, "it has places"
            kept = replace(self._kept.select(places[old]), contexts=_at(contexts, old))
            log_policy = policy.log_probs(kept, self.ancestral.budget)
            parts.append(replace(kept, log_policy=log_policy))
            tokens += int(kept.lengths.sum())
        samples = Samples.concatenate([_weighted(part) for part in parts])
        samples = samples.select(torch.cat([new, old]).argsort())
        reused = {"buffer/reused": len(old) / len(samples)}
        return Draw(samples, info=reused, cost=Cost(tokens, len(new)))

    def _places(self, context: Tensor, randomness: Randomness) -> Tensor:
        """`(N,)` the place in the buffer that each row is taken from; −1 for a new completion."""
        places = torch.full((len(context),), -1)
        if self._kept is None:
            return places
        choosing = replace(randomness, purpose=f"{randomness.purpose}: buffer")
        uniforms = choosing.uniforms(torch.arange(len(context)), 2)
        for row in context.unique():
            known = (self._kept.context == row).nonzero()[:, 0]
            asking = (context == row) & (uniforms[:, 0] < self.share)
            if len(known):
                places[asking] = known[(uniforms[asking, 1] * len(known)).long()]
        return places

    def adapt(self, draw: Draw, log_target: Tensor, log_policy: Callable[[], Tensor]) -> None:
        """Keep what is new, of all processes' rows."""
        assert self._randomness is not None, "adapts to what was sampled"
        samples = draw.samples
        places = self._places(samples.context, self._randomness)
        new = samples.select((places < 0).nonzero()[:, 0])
        parts = [new] if self._kept is None else [self._kept, new]
        kept = Samples.concatenate(parts)
        last = torch.arange(max(len(kept) - self.size, 0), len(kept))
        self._kept = kept.select(last).compact()

    def state_dict(self) -> dict[str, Any]:
        """The completions, in tensors, texts and numbers, as a checkpoint can hold them."""
        if self._kept is None:
            return {}
        names = {field.name for field in fields(Samples)} - {"contexts"}
        state = {name: getattr(self._kept, name) for name in names}
        return {**state, "scores": dict(state["scores"]), "rows": self._kept.context}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`; a completion's context is that of whoever asks for it again."""
        known = {name: value for name, value in state.items() if name != "rows"}
        rows = state["rows"].tolist() if state else []
        self._kept = Samples(contexts=[Context(row) for row in rows], **known) if state else None


def _at(contexts: Sequence[Context], rows: Tensor) -> list[Context]:
    return [contexts[row] for row in rows.tolist()]


def _weighted(samples: Samples) -> Samples:
    """With the density of what drew each, and its weight towards the policy as it is now."""
    density = samples.log_drawn
    return replace(samples, log_density=density, log_weight=samples.log_policy_sequence - density)
