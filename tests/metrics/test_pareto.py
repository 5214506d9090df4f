from __future__ import annotations

import math

import pytest
import torch

from klvi.metrics.pareto import tail_shape


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.7, 1.5])
def test_the_shape_of_a_pareto_tail_is_found(shape: float) -> None:
    """Within 0.25 of the truth, four standard errors at 300 tail values and shape 1.5."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(10_000, dtype=torch.float64, generator=generator)
    values = ((1 - uniform).pow(-shape) - 1) / shape
    assert tail_shape(values) == pytest.approx(shape, abs=0.25)
    # Neither scale nor place matter.
    assert tail_shape(1e-6 * values - 3) == pytest.approx(tail_shape(values), abs=1e-3)


def test_an_exponential_tail_is_not_heavy() -> None:
    values = torch.empty(5000, dtype=torch.float64)
    values.exponential_(generator=torch.Generator().manual_seed(1))
    assert abs(tail_shape(values)) < 0.2


@pytest.mark.parametrize("values", [torch.zeros(1000), torch.rand(20), torch.eye(50)[0]])
def test_without_a_tail_there_is_no_shape(values: torch.Tensor) -> None:
    assert tail_shape(values) == -math.inf
