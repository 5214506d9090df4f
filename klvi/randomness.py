"""Random numbers that depend on what they are for, and share nothing with any others.

Uniform numbers come from Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"), a function of a key and a counter without any state. The key is a digest of purpose and
seeds, the counter is (step, row): a row's numbers are its own, whatever is drawn beside it, in
whatever order, batch or process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock

import numpy as np
import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], dtype=np.uint64)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(counters: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox-4x32-10: 128 random bits `(4, n)` of each counter `(4, n)`, 32-bit words in uint64."""
    even, odd = counters[0::2].astype(np.uint64), counters[1::2].astype(np.uint64)
    keys = np.array([[key[0]], [key[1]]], dtype=np.uint64)
    for _ in range(ROUNDS):
        product = even * MULTIPLIERS
        even, odd = (product[::-1] >> HALF) ^ odd ^ keys, product[::-1] & LOW
        keys = (keys + WEYL) & LOW
    return np.stack([even[0], odd[0], even[1], odd[1]])


def uniforms(key: bytes, rows: Tensor, steps: int) -> Tensor:
    """`(n, steps)` uniform numbers in [0, 1), float64, on the CPU, of `rows` `(n,)` from 0.

    Multiples of 2^−53. Those of a row and a step depend on them and the first 8 bytes of `key`
    alone.
    """
    count = len(rows)
    # 128 bits are the numbers of two steps.
    pairs = -(-steps // 2)
    row = rows.cpu().numpy().astype(np.uint64).repeat(pairs)
    counters = np.zeros((4, count * pairs), dtype=np.uint64)
    counters[0] = np.tile(np.arange(pairs, dtype=np.uint64), count)
    counters[2:] = row & LOW, row >> HALF
    halves = int.from_bytes(key[:4], "big"), int.from_bytes(key[4:8], "big")
    bits = philox(counters, halves)
    numbers = ((bits[0::2] << HALF | bits[1::2]) >> np.uint64(11)) * 2.0**-53
    return torch.from_numpy(numbers.T.reshape(count, 2 * pairs)[:, :steps].copy())


def _digest(purpose: str, seeds: tuple[int, ...]) -> bytes:
    return hashlib.sha256(repr((purpose, *seeds)).encode()).digest()


_OF_TORCH = RLock()


@contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """Within, torch's own generator on the CPU starts from `seed`, in one thread at a time.

    For what takes no generator of its own; afterwards it is as it was.
    """
    with _OF_TORCH, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def seeded_generator(
    purpose: str, *seeds: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator for `purpose` and `seeds`: the same again for the same.

    Of a seed, torch's generator on the CPU takes the low 32 bits alone, so that seeds set apart by
    large numbers are one and the same to it.
    """
    digest = _digest(purpose, seeds)
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:4], "big"))


@dataclass(frozen=True)
class Randomness:
    """The random numbers of one draw.

    Attributes:
        purpose: what they are for; what one purpose is given is independent of all others.
        seeds: the same numbers again for the same.
        update: after which the draw is made, for what a reward is told and errors name.
        first_row: of the rows that are drawn here; processes that share a draw have rows in turn.
    """

    purpose: str
    seeds: tuple[int, ...]
    update: int
    first_row: int = 0

    def uniforms(self, rows: Tensor, steps: int) -> Tensor:
        """`(n, steps)` uniform numbers in [0, 1), float64 on the CPU, of the draw's `rows` `(n,)`.

        A row's numbers are its own: which rows are asked for together changes none.
        """
        return uniforms(_digest(self.purpose, self.seeds), rows + self.first_row, steps)
