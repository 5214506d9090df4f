"""The order in which prompts are visited."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from klvi.training.randomness import seeded_generator


@dataclass(frozen=True)
class PromptStream:
    """An endless stream of prompts, shuffled anew in each pass, each repeated in a row.

    What a batch holds depends on seed and update alone, so that a resume needs no state.
    """

    prompts: list[str]
    seed: int = 0
    samples_per_prompt: int = 1

    def batch(self, update: int, size: int) -> list[str]:
        """The `size` prompts that follow those of `update` batches."""
        if len(self.prompts) == 1:
            return self.prompts * size
        positions = [
            i // self.samples_per_prompt for i in range(update * size, (update + 1) * size)
        ]
        epochs = {position // len(self.prompts) for position in positions}
        orders = {epoch: self._order(epoch) for epoch in epochs}
        places = [divmod(position, len(self.prompts)) for position in positions]
        return [self.prompts[orders[epoch][place]] for epoch, place in places]

    def first(self, size: int) -> list[str]:
        """`size` prompts in the file's order, over and over: the same for every evaluation."""
        return [self.prompts[i % len(self.prompts)] for i in range(size)]

    def _order(self, epoch: int) -> list[int]:
        generator = seeded_generator("prompts", self.seed, epoch)
        order: list[int] = torch.randperm(len(self.prompts), generator=generator).tolist()
        return order
