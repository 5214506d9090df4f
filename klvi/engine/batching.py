"""How the passes of a model may be arranged: what its layers allow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batching:
    """The fast arrangement by default; a model that it gives other numbers takes a slower one.

    Attributes:
        padding: prompts of unequal length share a pass, the shorter ones padded on the left.
        cache: a step of decoding goes on from the keys, values and states kept of the steps
            before; without it each step computes the whole sequence.
        sharing: rows of what is kept can be repeated, reordered and left out.
    """

    padding: bool = True
    cache: bool = True
    sharing: bool = True

    def together(self, prompt_lengths: Tensor) -> list[Tensor]:
        """Which rows' prompts of `(N,)` lengths share passes: all, or those of one length."""
        if self.padding:
            return [torch.arange(len(prompt_lengths), device=prompt_lengths.device)]
        return [(prompt_lengths == n).nonzero()[:, 0] for n in prompt_lengths.unique()]

    def __str__(self) -> str:
        without = [
            text
            for text, has in (
                ("padding", self.padding),
                ("a cache", self.cache),
                ("shared rows", self.sharing or not self.cache),
            )
            if not has
        ]
        return f"without {' and '.join(without)}" if without else "as fast as can be"


# From fast to slow.
ARRANGEMENTS = (
    Batching(),
    Batching(sharing=False),
    Batching(padding=False),
    Batching(padding=False, sharing=False),
    Batching(cache=False),
    Batching(padding=False, cache=False),
)
