import math
from dataclasses import replace

import pytest
import torch

from klvi.metrics.estimators import bounded_mean
from klvi.metrics.intervals import (
    Estimate,
    average,
    bounded_interval,
    estimate,
    interval,
    t_quantile,
    with_room,
)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1e6, 1.960)],
)
def test_t_quantile_is_that_of_the_tables(degrees, expected):
    assert t_quantile(0.95, degrees) == pytest.approx(expected, rel=0.02)


def test_error_is_the_standard_error_of_the_mean():
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    found = estimate(float(values.mean()), values)
    assert found.error == pytest.approx(float(values.std()) / math.sqrt(200), rel=1e-9)
    assert found.n == 200


def test_degrees_of_freedom_count_the_samples_that_carry_the_variance():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(100_000, generator=generator).double()
    assert estimate(0.0, normal).degrees == pytest.approx(100_000, rel=0.05)
    rare = torch.zeros(10_000).double()
    rare[:25] = 1.0
    assert estimate(0.0, rare).degrees == pytest.approx(2 * 25, rel=0.05)


def test_strata_of_fixed_size_take_the_spread_between_them_out():
    strata = torch.tensor([0] * 50 + [1] * 150)
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    shifted = values + 100 * strata
    expected = sum(
        (n / 200) ** 2 * float(values[strata == s].var()) / n for s, n in ((0, 50), (1, 150))
    )
    assert estimate(0.0, shifted, strata).error == pytest.approx(math.sqrt(expected), rel=1e-9)


def test_average_adds_variances_and_third_moments():
    parts = [Estimate(1.0, 0.3, 10, 9.0, 0.5), Estimate(3.0, 0.4, 30, 29.0, 0.0)]
    found = average(parts, [0.5, 0.5])
    assert found.value == 2.0
    assert found.error == pytest.approx(0.25)
    assert found.n == 40
    assert found.skewness == pytest.approx(0.5 * (0.15 / 0.25) ** 3)
    assert 9 < found.degrees < 38


def test_without_skewness_the_interval_is_students():
    found = interval(Estimate(1.0, 0.5, 11, 10.0), 0.95)
    assert found.low == pytest.approx(1 - 0.5 * 2.228, rel=1e-3)
    assert found.high == pytest.approx(1 + 0.5 * 2.228, rel=1e-3)


def test_bounds_cut_the_interval_and_never_the_value():
    found = interval(Estimate(0.1, 0.5, 1000, 999.0), 0.95, low=0.0)
    assert (found.low, found.value) == (0.0, 0.1)
    assert found.high > 1


def test_skewed_means_are_covered_on_both_sides():
    """2000 means of 30 squared normals (skewness 2.8), 5% to miss; standard error 0.5%."""
    values = torch.randn(2000, 30, generator=torch.Generator().manual_seed(0)).double() ** 2
    found = [interval(estimate(float(row.mean()), row), 0.95) for row in values]
    below = sum(m.high < 1 for m in found) / len(found)
    above = sum(m.low > 1 for m in found) / len(found)
    assert below + above < 0.075
    assert below < 0.055
    symmetric = [interval(Estimate(m.value, (m.high - m.low) / 4.2, 30, 29.0), 0.95) for m in found]
    assert sum(m.high < 1 for m in symmetric) / len(found) > below


def proportion(successes: int, n: int) -> Estimate:
    values = torch.zeros(n).double()
    values[:successes] = 1.0
    return bounded_mean(values)


@pytest.mark.parametrize(("successes", "low", "high"), [(0, 0.0, 0.00745), (512, 0.99255, 1.0)])
def test_a_proportion_of_none_or_all_leaves_room_for_the_unseen(successes, low, high):
    found = bounded_interval(proportion(successes, 512), 0.95, 0.0, 1.0)
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.high == pytest.approx(high, abs=1e-4)


def test_a_proportion_has_wilsons_interval():
    found = bounded_interval(proportion(30, 100), 0.95, 0.0, 1.0)
    # Wilson's score interval of 30/100 at 95%: [0.219, 0.396].
    assert found.low == pytest.approx(0.2189, abs=2e-3)
    assert found.high == pytest.approx(0.3958, abs=2e-3)


def test_the_interval_scales_with_the_bounds():
    unit = bounded_interval(proportion(3, 200), 0.95, 0.0, 1.0)
    values = torch.full((200,), -2.0).double()
    values[:3] = 8.0
    scaled = bounded_interval(bounded_mean(values), 0.95, -2.0, 8.0)
    assert scaled.low == pytest.approx(-2 + 10 * unit.low)
    assert scaled.high == pytest.approx(-2 + 10 * unit.high)


@pytest.mark.parametrize(
    "probability", [0.0003, 0.0005, 0.001, 0.005, 0.02, 0.3, 0.5, 0.98, 0.9995]
)
def test_proportions_are_covered_however_rare(probability):
    """Summed over the binomial distribution, not simulated."""
    n, covered = 512, 0.0
    for k in range(n + 1):
        weight = math.exp(
            math.lgamma(n + 1)
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * math.log(probability)
            + (n - k) * math.log1p(-probability)
        )
        found = bounded_interval(proportion(k, n), 0.95, 0.0, 1.0)
        covered += weight * (found.low <= probability <= found.high)
    assert covered > 0.93


def test_a_constant_inside_its_bounds_reaches_towards_both():
    found = bounded_interval(Estimate(3.0, 0.0, 100, 99.0), 0.95, 0.0, 10.0)
    assert 2.8 < found.low < 3.0 < found.high < 3.4


def test_where_few_samples_differ_an_interval_leaves_room_for_what_was_not_drawn() -> None:
    agreed = with_room(Estimate(2.0, 0.0, 400, 399.0))
    assert agreed.error == pytest.approx(2 / 400)
    assert agreed.degrees == pytest.approx(399)
    found = Estimate(2.0, 2 / 400, 400, 6.0, skewness=1.0)
    widened = with_room(found)
    assert widened.error == pytest.approx(2 * 2**0.5 / 400)
    assert widened.degrees == pytest.approx(4 / (1 / 6 + 1 / 399))
    assert widened.skewness == pytest.approx(2**-1.5)
    many = replace(found, degrees=40.0)
    assert with_room(many) == many
