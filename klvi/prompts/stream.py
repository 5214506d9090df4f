"""The order in which contexts are visited."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from klvi.contexts import Context
from klvi.randomness import seeded_generator


@dataclass(frozen=True)
class PromptStream:
    """An endless stream of contexts, shuffled anew in each pass, each repeated in a row.

    What a batch holds depends on seed and update alone, so that a resume needs no state.
    """

    contexts: list[Context]
    seed: int = 0
    samples_per_prompt: int = 1

    def batch(self, update: int, size: int) -> list[Context]:
        """The `size` contexts that follow those of `update` batches."""
        if len(self.contexts) == 1:
            return self.contexts * size
        positions = [
            i // self.samples_per_prompt for i in range(update * size, (update + 1) * size)
        ]
        epochs = {position // len(self.contexts) for position in positions}
        orders = {epoch: self._order(epoch) for epoch in epochs}
        places = [divmod(position, len(self.contexts)) for position in positions]
        return [self.contexts[orders[epoch][place]] for epoch, place in places]

    def first(self, size: int) -> list[Context]:
        """`size` contexts in the file's order, over and over: the same for every evaluation."""
        return [self.contexts[i % len(self.contexts)] for i in range(size)]

    def subset(self, count: int, seed: int) -> list[Context]:
        """`count` contexts drawn at random, in the file's order: the same for the same seed."""
        rows = len(self.contexts)
        if count >= rows:
            return self.contexts
        generator = seeded_generator("evaluation prompts", seed)
        chosen = torch.randperm(rows, generator=generator)[:count].sort().values
        return [self.contexts[row] for row in chosen.tolist()]

    def _order(self, epoch: int) -> list[int]:
        generator = seeded_generator("prompts", self.seed, epoch)
        order: list[int] = torch.randperm(len(self.contexts), generator=generator).tolist()
        return order
