"""Importance sampling from policy and prior at once."""

from __future__ import annotations

import pytest
import torch

from klvi.metrics.importance import LogProbabilities, kl_forward, kl_reverse, mixture


def _drawn(density: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.multinomial(density, count, replacement=True, generator=generator)


@pytest.mark.parametrize("calibrated", [True, False])
def test_no_divergence_is_negative_whatever_was_drawn(
    calibrated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a regression on π/q is unstable, as of policies whose samples are much alike."""
    if not calibrated:
        monkeypatch.setattr("klvi.metrics.importance._control", lambda *_: None)
    generator = torch.Generator().manual_seed(0)
    for sharpness in (0.0, 0.1, 3.0):
        prior, change = torch.randn(2, 60, generator=generator).double()
        target = (prior + 2 * change).log_softmax(0)
        policy = (target + sharpness * torch.randn(60, generator=generator)).log_softmax(0)
        prior = prior.log_softmax(0)
        for _ in range(40):
            rows = [_drawn(p.exp(), 32, generator) for p in (policy, prior)]
            sets = [LogProbabilities(policy[r], prior[r], target[r] + 5.0) for r in rows]
            mix = mixture(*sets)
            assert kl_forward(mix).value > -1e-12
            assert kl_reverse(mix).value > -1e-12
