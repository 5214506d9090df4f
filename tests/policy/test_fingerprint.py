"""An adapter is told from one of another prior."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import disturb
from zoo import small_policy

from klvi.errors import UserError
from klvi.policy.fingerprint import FILE, fingerprint


def test_an_adapter_of_another_prior_of_the_same_shape_is_refused(tmp_path: Path) -> None:
    disturb(small_policy("llama", seed=0)).save_adapter(tmp_path)
    small_policy("llama", seed=0).load_adapter(tmp_path)
    with pytest.raises(UserError, match=r"another prior than model llama .*set model\.path"):
        small_policy("llama", seed=1).load_adapter(tmp_path)


@pytest.mark.parametrize("place", ["model.embed_tokens", "model.layers.1.mlp.down_proj"])
def test_a_weight_that_was_trained_on_shows(place: str) -> None:
    policy = small_policy("llama")
    before = fingerprint(policy.prior)
    policy.prior.plain.get_submodule(place).weight.data.mul_(1.01)
    assert fingerprint(policy.prior) != before


def test_bfloat16_of_the_same_weights_is_the_same_prior(tmp_path: Path) -> None:
    disturb(small_policy("llama", torch.float32)).save_adapter(tmp_path)
    policy = small_policy("llama", torch.bfloat16)
    policy.load_adapter(tmp_path)
    assert not policy.is_prior


def test_a_folder_of_another_trainer_is_taken(tmp_path: Path) -> None:
    disturb(small_policy("llama", seed=0)).save_adapter(tmp_path)
    (tmp_path / FILE).unlink()
    policy = small_policy("llama", seed=1)
    policy.load_adapter(tmp_path)
    assert not policy.is_prior
