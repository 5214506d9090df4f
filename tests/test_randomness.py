from __future__ import annotations

import numpy as np
import pytest
import torch

from klvi.randomness import Randomness, philox, seeded_generator

# Probability with which chance fails a test of random numbers.
ERROR = 1e-5


def numbers(*key: object) -> list[float]:
    return torch.rand(4, generator=seeded_generator(*key)).tolist()


def drawn(
    rows: int = 400, steps: int = 50, *, purpose: str = "rollout", seed: int = 0
) -> np.ndarray:
    return Randomness(purpose, (seed, 1), 1).uniforms(torch.arange(rows), steps).numpy()


def test_the_same_key_gives_the_same_numbers() -> None:
    assert numbers("rollout", 1, 2) == numbers("rollout", 1, 2)


def test_any_other_key_gives_others() -> None:
    keys = [("rollout", 0, 1), ("rollout", 1, 0), ("rollout", 1), ("prior", 1), ("rollout", 2**32)]
    keys += [("rollout", 0), ("rollout", 2**40), ("rollout", 10), ("rollout", 1, 10)]
    found = {tuple(numbers(*key)) for key in keys}
    assert len(found) == len(keys)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_is_that_of_its_authors(
    counter: tuple[int, ...], key: tuple[int, int], expected: str
) -> None:
    """The known answers that Random123 ships."""
    found = philox(np.array(counter, dtype=np.uint64)[:, None], key)[:, 0]
    assert " ".join(f"{int(word):08x}" for word in found) == expected


def test_a_rows_numbers_are_its_own() -> None:
    randomness = Randomness("rollout", (0, 1), 1)
    whole = randomness.uniforms(torch.arange(20), 7)
    rows = torch.tensor([3, 17, 0, 3])
    assert torch.equal(randomness.uniforms(rows, 7), whole[rows])
    assert torch.equal(randomness.uniforms(torch.arange(20), 4), whole[:, :4])
    shard = Randomness("rollout", (0, 1), 1, first_row=12)
    assert torch.equal(shard.uniforms(torch.arange(8), 7), whole[12:])
    far = randomness.uniforms(torch.tensor([2**33, 2**33 + 3]), 7)
    assert not torch.isin(far, whole).any()


def test_numbers_are_uniform_in_the_interval() -> None:
    found = drawn().ravel()
    assert found.dtype == np.float64
    assert found.min() >= 0
    assert found.max() < 1
    assert even(found)
    # Low bits, too.
    assert even(found * 2**20 % 1)


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (0, 2), (2, 0), (1, 1)])
def test_neighbouring_rows_and_steps_are_independent(shift: tuple[int, int]) -> None:
    """Pairs in a table of 8 × 8 cells."""
    table = drawn()
    rows, steps = shift
    pairs = table[rows:, steps:].ravel(), table[: len(table) - rows, : 50 - steps].ravel()
    assert independent(*pairs)


@pytest.mark.parametrize("other", [{"purpose": "prior"}, {"seed": 1}, {"seed": 2**32}])
def test_other_purposes_and_seeds_are_independent(other: dict[str, object]) -> None:
    first, second = drawn().ravel(), drawn(**other).ravel()
    assert not np.isin(first, second).any()
    assert independent(first, second)


def even(numbers: np.ndarray) -> bool:
    """Kolmogorov's test of the uniform distribution, whose tail is 2·exp(−2n·D²)."""
    count = len(numbers)
    distance = np.abs(np.sort(numbers) - (np.arange(count) + 0.5) / count).max()
    return bool(2 * np.exp(-2 * count * distance**2) > ERROR)


def independent(first: np.ndarray, second: np.ndarray) -> bool:
    """Pearson's chi-square test of 64 equally likely cells."""
    counts = np.histogram2d(first, second, bins=8, range=[[0, 1], [0, 1]])[0]
    statistic = (np.square(counts - counts.mean()) / counts.mean()).sum()
    degrees = torch.tensor((counts.size - 1) / 2)
    return bool(torch.special.gammaincc(degrees, torch.tensor(statistic / 2)) > ERROR)
