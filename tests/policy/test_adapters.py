"""Which layers an adapter is put on, and which are left out, with the reason."""

from __future__ import annotations

import pytest
from zoo import PROMPTS, prior_of, small_policy

from klvi.errors import UserError
from klvi.policy.adapters import adapter_config
from klvi.policy.policy import Policy
from klvi.policy.schema import LoraSection
from klvi.policy.self_check import check_policy
from scripts.small_models import small_model


@pytest.mark.parametrize(
    ("model_type", "left_out", "reason"),
    [
        ("llama4_text", "router", "linear map"),
        ("phimoe", "router", "linear map"),
        ("mamba", "out_proj", "refused by peft"),
        ("deepseek_v2", "gate_proj", "peft puts no adapter"),
        ("bart", "encoder_attn", "no pass"),
    ],
)
def test_default_targets_leave_out_what_cannot_be_adapted(
    model_type: str, left_out: str, reason: str
) -> None:
    policy = small_policy(model_type)
    matching = {kind: why for kind, why in policy.left_out.items() if left_out in kind}
    assert matching
    assert all(reason in why for why in matching.values())
    assert policy.adapted_layers
    assert not any(left_out in name for name in policy.adapted_layers)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "falcon", "mixtral"])
def test_default_targets_are_all_layers_but_the_output(model_type: str) -> None:
    policy = small_policy(model_type)
    assert policy.left_out == {}
    assert len(policy.adapted_layers) >= 4
    assert "lm_head" not in policy.adapted_layers


def test_the_same_layers_in_every_block_have_an_adapter() -> None:
    policy = small_policy("falcon")
    blocks = {name.split(".")[2] for name in policy.adapted_layers}
    assert blocks == {"0", "1"}


def test_a_target_that_peft_refuses_is_named() -> None:
    model = prior_of(small_model("mamba")).model
    with pytest.raises(UserError, match=r"lora\.targets=\['out_proj'\].*lora\.targets=null"):
        adapter_config(model, LoraSection(targets=["out_proj"]))


def test_a_target_that_is_no_layer_is_named_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"lora\.targets=\['query'\].*q_proj"):
        Policy(prior_of(small_model("llama")), LoraSection(targets=["query", "q_proj"]))


def test_a_target_that_is_a_block_is_named_with_the_layers_in_it() -> None:
    model = prior_of(small_model("llama")).model
    with pytest.raises(UserError, match=r"mlp \(LlamaMLP\).*down_proj, gate_proj, up_proj"):
        adapter_config(model, LoraSection(targets=["mlp"]))
    with pytest.raises(UserError, match=r"lora\.targets=\[\].*lora\.targets=null"):
        adapter_config(model, LoraSection(targets=[]))


def test_adapters_on_the_weights_of_experts_train_as_peft_has_them() -> None:
    policy = small_policy("deepseek_v2", targets=["gate_proj", "up_proj", "down_proj"])
    assert any("experts" in name for name in policy.adapted_layers)
    check_policy(policy, PROMPTS, 6)
    with policy.merged() as model:
        assert model is policy.model
