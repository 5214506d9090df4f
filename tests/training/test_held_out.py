"""What a reward model is worth on held-out pairs."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import softplus

from klvi.training.held_out import EnsembleHeldOut, measured


def test_a_model_that_knows_the_noise_is_calibrated_and_reaches_the_scores() -> None:
    """10,000 pairs: 0.02 is more than four standard errors of what is compared."""
    generator = torch.Generator().manual_seed(0)
    margins = 2 * torch.randn(10_000, generator=generator, dtype=torch.float64)
    chosen = torch.rand(10_000, generator=generator) < margins.sigmoid()
    gold = torch.where(chosen, margins, -margins)
    found = measured(gold, gold)
    both = EnsembleHeldOut.of([gold, 3 * gold], gold)
    assert both.scores == found.accuracy
    assert both.members["0"] == found
    assert both.mean == measured(2 * gold, gold)
    assert EnsembleHeldOut.of([gold], None).to_json().keys() == {"members"}
    assert found.accuracy.value == pytest.approx(float(margins.abs().sigmoid().mean()), abs=0.02)
    assert found.loss.value == pytest.approx(float(softplus(-gold).mean()))
    assert found.order is not None
    assert found.order.value == 1.0
    assert found.calibration_error < 0.02
    assert sum(each.observed.n for each in found.bins) == 10_000
    sure = measured(10 * gold, None)
    assert (sure.accuracy, sure.order) == (found.accuracy, None)
    assert sure.calibration_error > 0.1


def test_the_order_is_of_pairs_that_the_scores_tell_apart() -> None:
    gold = torch.tensor([1.0, -1.0, 0.0, 2.0])
    found = measured(torch.tensor([1.0, 1.0, 1.0, 0.0]), gold)
    assert found.accuracy.value == 3.5 / 4
    assert found.order is not None
    assert (found.order.value, found.order.n) == (pytest.approx(1.5 / 3), 3)
