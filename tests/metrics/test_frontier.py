import pytest

from klvi.metrics.frontier import frontier_violation
from klvi.metrics.measurement import Measurement, Unavailable


def measured(value: float, reach: float = 0.0) -> Measurement:
    return Measurement(value, value - reach, value + reach, 512)


def test_a_point_on_the_frontier_is_no_violation():
    assert frontier_violation(measured(0.9), measured(4.0), measured(0.5), beta=0.2) is None


def test_a_point_above_it_is_named_with_the_bound():
    line = frontier_violation(measured(0.95), measured(4.0), measured(0.5), beta=0.2)
    assert line is not None
    assert "reward 0.95" in line
    assert "= 0.9 " in line
    assert "β = 0.2" in line


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_point_above_it_within_its_intervals_is_no_violation(place):
    reach = [0.0, 0.0, 0.0]
    reach[place] = 0.06 if place == 0 else 0.3
    values = [measured(v, r) for v, r in zip((0.95, 4.0, 0.5), reach, strict=True)]
    assert frontier_violation(*values, beta=0.2) is None


@pytest.mark.parametrize("place", [0, 1, 2])
def test_nothing_is_said_where_a_number_is_missing(place):
    values = [measured(9.0), measured(0.0), measured(0.0)]
    values[place] = Unavailable("too few")
    assert frontier_violation(*values, beta=0.2) is None
