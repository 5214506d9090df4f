from pathlib import Path

import pytest
import torch
from support import Enumeration, disturb
from torch.testing import assert_close

from klvi.engine.micro_batch import MicroBatch
from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.policy.prior import load_prior
from klvi.policy.schema import EnumerableModelConfig, LoraSection


def test_a_fresh_policy_is_the_prior(policy: Policy, enumeration: Enumeration) -> None:
    assert torch.equal(enumeration.log_probs(policy), enumeration.log_probs_prior(policy))


def test_the_prior_stays_when_the_policy_moves(policy: Policy, enumeration: Enumeration) -> None:
    before = enumeration.log_probs_prior(policy)
    disturb(policy)
    assert torch.equal(enumeration.log_probs_prior(policy), before)
    assert not torch.allclose(enumeration.log_probs(policy), before, atol=0.1)


def test_only_adapter_and_value_head_are_trained(policy: Policy) -> None:
    head = policy.add_value_head()
    trained = {id(p) for p in policy.parameters()}
    requiring = {id(p) for p in policy.model.parameters() if p.requires_grad}
    assert trained == requiring | {id(p) for p in head.parameters()}
    assert all(p.requires_grad for p in policy.parameters())


def test_merging_is_the_same_policy_and_leaves_every_bit(
    policy: Policy, enumeration: Enumeration
) -> None:
    disturb(policy)
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    expected = enumeration.log_probs(policy).detach()
    with policy.merged() as model, torch.no_grad():
        view = MicroBatch.of(enumeration.completions).forward(model)
        merged = view.log_probs().double().sum(1)
    assert_close(merged, expected, atol=1e-4, rtol=1e-4)
    for _ in range(1000):
        with policy.merged():
            pass
    assert all(
        torch.equal(value, before[name]) for name, value in policy.model.state_dict().items()
    )
    assert torch.equal(enumeration.log_probs(policy), expected)


def test_merging_is_undone_after_an_error(policy: Policy, enumeration: Enumeration) -> None:
    expected = enumeration.log_probs(disturb(policy)).detach()
    with pytest.raises(RuntimeError, match="inside"), policy.merged():
        raise RuntimeError("inside")
    assert torch.equal(enumeration.log_probs(policy), expected)


def test_policies_on_one_prior_give_in_turn_what_each_gives_alone(
    policy: Policy, enumeration: Enumeration
) -> None:
    prior = Policy(policy.prior)
    before = enumeration.log_probs(prior)
    disturb(policy)
    alone = enumeration.log_probs(policy).detach()
    other = disturb(Policy(policy.prior, LoraSection(r=4, targets=["lm_head", "c_attn"]), seed=1))
    second = enumeration.log_probs(other).detach()
    assert not torch.allclose(alone, second, atol=0.1)
    with policy.merged(), other.merged():
        for one, expected in ((prior, before), (policy, alone), (other, second)):
            assert torch.equal(enumeration.log_probs(one), expected)
    enumeration.log_probs(policy).mean().backward()
    assert all(parameter.grad is None for parameter in other.adapter_parameters())


def test_a_snapshot_can_stand_in(policy: Policy, enumeration: Enumeration) -> None:
    before = enumeration.log_probs(disturb(policy)).detach()
    old = policy.snapshot()
    after = enumeration.log_probs(disturb(policy)).detach()
    assert torch.equal(enumeration.log_probs(old), before)
    assert torch.equal(enumeration.log_probs(policy), after)
    old.set_adapter(policy.adapter_parameters())
    assert torch.equal(enumeration.log_probs(old), after)
    disturb(old)
    assert torch.equal(enumeration.log_probs(policy), after)


def test_the_adapter_survives_a_folder(
    policy: Policy,
    enumeration: Enumeration,
    enumerable_config: EnumerableModelConfig,
    tmp_path: Path,
) -> None:
    disturb(policy).save_adapter(tmp_path)
    other = Policy(load_prior(enumerable_config, kernels="none"), LoraSection(r=8), seed=5)
    other.load_adapter(tmp_path)
    assert torch.equal(enumeration.log_probs(other), enumeration.log_probs(policy))


def test_a_foreign_adapter_is_refused(
    policy: Policy, enumerable_config: EnumerableModelConfig, tmp_path: Path
) -> None:
    policy.save_adapter(tmp_path)
    other = Policy(load_prior(enumerable_config, kernels="none"), LoraSection(r=4), seed=0)
    with pytest.raises(UserError, match="belongs to another model or lora section"):
        other.load_adapter(tmp_path)
    with pytest.raises(UserError, match="no adapter"):
        other.load_adapter(tmp_path / "nowhere")


def test_an_unknown_lora_target_is_named(enumerable_config: EnumerableModelConfig) -> None:
    with pytest.raises(UserError, match=r"lora\.targets=\['q_proj'\].*c_attn, c_fc, c_proj"):
        Policy(load_prior(enumerable_config, kernels="none"), LoraSection(targets=["q_proj"]))


def test_the_value_loss_cannot_move_the_policy(policy: Policy) -> None:
    head = policy.add_value_head()
    hidden = torch.randn(3, 64, requires_grad=True)
    (head(hidden) - 1).square().sum().backward()
    assert hidden.grad is None
    assert head.output.bias.grad is not None


def test_recomputed_activations_give_the_same_gradients(
    policy: Policy, enumeration: Enumeration
) -> None:
    disturb(policy)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    results = []
    for model, passes in ((policy.model, 1), (policy.recomputing, 2)):
        calls = 0
        model.transformer.h[0].ln_1.register_forward_hook(count)
        loss = MicroBatch.of(enumeration.completions).forward(model).log_probs().double().sum(1)
        gradients = torch.autograd.grad(loss.mean(), policy.adapter_parameters())
        results.append(torch.cat([gradient.flatten() for gradient in gradients]))
        assert calls == passes
    assert_close(results[0], results[1])
    assert not any(module.training for module in policy.model.modules())
