import torch

from klvi.randomness import seeded_generator


def numbers(*key: object) -> list[float]:
    return torch.rand(4, generator=seeded_generator(*key)).tolist()


def test_the_same_key_gives_the_same_numbers() -> None:
    assert numbers("rollout", 1, 2) == numbers("rollout", 1, 2)


def test_any_other_key_gives_others() -> None:
    keys = [("rollout", 0, 1), ("rollout", 1, 0), ("rollout", 1), ("prior", 1), ("rollout", 2**32)]
    keys += [("rollout", 0), ("rollout", 2**40), ("rollout", 10), ("rollout", 1, 10)]
    found = {tuple(numbers(*key)) for key in keys}
    assert len(found) == len(keys)
