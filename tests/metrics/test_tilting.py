"""A prior tilted to a given KL, against exact sums."""

import math

import pytest
import torch

from klvi.metrics.tilting import reachable_kl, tilt_for_kl, tilted

ONE = torch.zeros(4, dtype=torch.long)
PRIOR = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.double)
SCORE = torch.tensor([3.0, -1.0, 0.5, 0.5]).double()


def exact_kl(s: float) -> float:
    p = PRIOR * (s * SCORE).exp()
    p = p / p.sum()
    return float((p * (p / PRIOR).log()).sum())


@pytest.mark.parametrize("s", [0.01, 0.7, 5.0, 60.0])
def test_the_kl_of_a_tilt_is_the_definitions(s: float) -> None:
    found = tilted(SCORE, PRIOR.log() + 3, ONE, s)
    assert found.kl == pytest.approx(exact_kl(s), rel=1e-9, abs=1e-12)
    step = 1e-5
    slope = (exact_kl(s + step) - exact_kl(s - step)) / (2 * step)
    assert s * found.spread == pytest.approx(slope, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("kl", [1e-6, 0.3, 1.0, 2.3])
def test_the_root_has_the_asked_kl(kl: float) -> None:
    found = tilt_for_kl(SCORE, PRIOR.log(), ONE, kl)
    assert exact_kl(found.s) == pytest.approx(kl, rel=1e-7)


def test_contexts_share_the_tilt_and_their_mean_kl_is_asked() -> None:
    score, weight = SCORE.repeat(2), torch.cat([PRIOR, PRIOR.flip(0)]).log()
    context = torch.tensor([7] * 4 + [2] * 4)
    found = tilt_for_kl(score, weight, context, 0.8)
    parts = [tilted(score[i : i + 4], weight[i : i + 4], ONE, found.s).kl for i in (0, 4)]
    assert sum(parts) / 2 == pytest.approx(0.8)


def test_what_no_tilt_reaches_is_refused() -> None:
    limit = reachable_kl(SCORE, PRIOR.log(), ONE)
    assert limit == pytest.approx(-math.log(0.1))
    for kl in (0.0, -1.0, limit, 5.0):
        with pytest.raises(ValueError, match=r"2\.30"):
            tilt_for_kl(SCORE, PRIOR.log(), ONE, kl)
    with pytest.raises(ValueError, match=r"between 0 and -?0"):
        tilt_for_kl(torch.ones(4), PRIOR.log(), ONE, 0.5)


@pytest.mark.slow
def test_the_standard_error_is_that_of_repetitions() -> None:
    """Of 400 repetitions the standard deviation is known to 3.5%; 5 of these are asked for."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        drawn = torch.multinomial(PRIOR, 500, replacement=True, generator=generator)
        zero = torch.zeros(500)
        found.append(tilt_for_kl(SCORE[drawn], zero, zero.long(), 0.8))
    s = torch.tensor([each.s for each in found])
    error = torch.tensor([each.s_error for each in found]).mean()
    assert float(error / s.std()) == pytest.approx(1.0, abs=0.18)
