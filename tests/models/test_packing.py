"""Packed linear layers compute what plain ones do, for decoding alone."""

from __future__ import annotations

import pytest
import torch
from support import disturb
from torch import nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from klvi.config.schema import LoraSection, ModelConfig
from klvi.contexts import unprompted
from klvi.models.packing import MIN_WEIGHTS, computing_with, pack, packable
from klvi.models.policy import Policy
from klvi.models.prior import load_prior
from klvi.samplers.ancestral import draw

WIDE, NARROW = 512, 160


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Linear(NARROW, WIDE),
        nn.Linear(WIDE, NARROW, bias=False),
        Conv1D(WIDE, NARROW),
    ]


@pytest.mark.parametrize("rows", [1, 16, 100])
def test_products_are_the_same(rows: int) -> None:
    for layer in layers():
        assert packable([layer]) == [layer]
        width = layer.weight.shape[isinstance(layer, nn.Linear)]
        inputs = torch.randn(rows, 1, width, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            plain = layer(inputs)
            with computing_with({layer: pack(layer)}):
                packed = layer(inputs)
            assert torch.equal(layer(inputs), plain)
        assert packed.shape == plain.shape
        assert_close(packed, plain, atol=1e-5, rtol=1e-5)


def test_what_is_not_packed() -> None:
    small = nn.Linear(8, MIN_WEIGHTS // 8 - 1)
    double = nn.Linear(NARROW, WIDE).double()
    special = nn.Linear(NARROW, WIDE)
    special.forward = lambda inputs: inputs
    assert packable([small, double, special, nn.Embedding(WIDE, WIDE)]) == []


def test_rollouts_follow_the_adapter_and_leave_the_layers_alone() -> None:
    policy = Policy(load_prior(ModelConfig(name="tiny")), LoraSection())
    with policy.merged() as model:
        packed = packable(model.modules())
    assert packed
    for seed in (1, 2):
        disturb(policy, 0.02, seed)
        samples = [
            draw(
                policy,
                unprompted(32),
                max_new_tokens=length,
                generator=torch.Generator().manual_seed(0),
            )
            # The first is too short to be worth packing.
            for length in (15, 16)
        ]
        assert all("forward" not in vars(layer) for layer in packed)
        plain, ours = samples[0].log_policy, samples[1].log_policy[:, :15]
        same = (samples[0].tokens[:, :15] == samples[1].tokens[:, :15]).all(1)
        assert same.float().mean() > 0.9
        assert_close(ours[same], plain[same], atol=1e-4, rtol=0)
