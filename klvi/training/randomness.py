"""Random numbers that depend on what they are for, and share nothing with any others."""

from __future__ import annotations

import hashlib

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
