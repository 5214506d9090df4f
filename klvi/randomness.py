"""Random numbers that depend on what they are for, and share nothing with any others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch


def seeded_generator(
    purpose: str, *seeds: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator for `purpose` and `seeds`: the same again for the same.

    Of a seed, torch's generator on the CPU takes the low 32 bits alone, so that seeds set apart by
    large numbers are one and the same to it.
    """
    digest = hashlib.sha256(repr((purpose, *seeds)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:4], "big"))


@dataclass(frozen=True)
class Randomness:
    """The random numbers of one draw.

    Attributes:
        purpose: what they are for; what one purpose is given is independent of all others.
        seeds: the same numbers again for the same.
        update: after which the draw is made, for what a reward is told and errors name.
    """

    purpose: str
    seeds: tuple[int, ...]
    update: int

    def generator(self, device: torch.device | str) -> torch.Generator:
        """A generator on `device`, at its beginning."""
        return seeded_generator(self.purpose, *self.seeds, device=device)
