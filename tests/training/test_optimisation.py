from __future__ import annotations

import copy

import pytest
import torch
from support import train_config
from torch.optim import AdamW, Muon
from torch.testing import assert_close

from klvi.policy.policy import Policy
from klvi.policy.prior import load_prior
from klvi.runs.assembly import optimiser_settings
from klvi.training.optimisation import JointOptimizer, Optimisation


def made(algorithm: str, *, head: bool = True, **options: object) -> tuple[Policy, Optimisation]:
    config = train_config(optim={"algorithm": algorithm, "lr": 0.01, **options})
    policy = Policy(load_prior(config.model), config.lora)
    if head:
        policy.add_value_head()
    return policy, Optimisation(policy, optimiser_settings(config.optim), updates=10)


def step(optimisation: Optimisation, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in optimisation.parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimisation.step()
    optimisation.scheduler.step()


def test_adamw_moves_all_weights() -> None:
    policy, optimisation = made("adamw")
    assert isinstance(optimisation.optimizer, AdamW)
    before = [p.detach().clone() for p in policy.parameters()]
    step(optimisation, 0)
    for old, new in zip(before, policy.parameters(), strict=True):
        assert_close((new - old).abs(), torch.full_like(old, 0.01), rtol=1e-2, atol=0)


@pytest.mark.parametrize("algorithm", ["adamw", "muon"])
def test_a_gradient_of_zero_moves_nothing(algorithm: str) -> None:
    """Neither by momentum, which earlier steps have left, nor by weight decay."""
    policy, optimisation = made(algorithm, weight_decay=0.1)
    step(optimisation, 0)
    before = policy.snapshot().adapter_parameters()
    for parameter in policy.adapter_parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert optimisation.step() == 0.0
    assert all(map(torch.equal, before, policy.adapter_parameters()))
    step(optimisation, 1)
    assert not any(map(torch.equal, before, policy.adapter_parameters()))


def test_muon_moves_the_adapters_matrices_alike_in_all_directions() -> None:
    policy, optimisation = made("muon")
    before = policy.snapshot().adapter_parameters()
    step(optimisation, 0)
    for old, new in zip(before, policy.adapter_parameters(), strict=True):
        singular = torch.linalg.svdvals(new.detach() - old)
        # Five steps of Newton and Schulz bring them near 1, to within a factor of two.
        assert singular.max() < 2.5 * singular.min()
        # AdamW's first step has a root mean square of the learning rate; Liu et al. match 0.2.
        assert (new - old).square().mean().sqrt().item() == pytest.approx(0.002, rel=0.3)


def test_muon_leaves_the_value_head_to_adamw() -> None:
    (_, muon), (_, adamw) = made("muon"), made("adamw", max_grad_norm=None)
    muon.max_grad_norm = None
    for optimisation in (muon, adamw):
        step(optimisation, 0)
        step(optimisation, 1)
    heads = [optimisation.parameters[-4:] for optimisation in (muon, adamw)]
    for ours, expected in zip(*heads, strict=True):
        assert_close(ours, expected)


def test_without_a_value_head_muon_is_alone() -> None:
    _, optimisation = made("muon", head=False)
    assert isinstance(optimisation.optimizer, Muon)


def test_the_schedule_reaches_all_parts() -> None:
    _, optimisation = made("muon", schedule="linear")
    assert isinstance(optimisation.optimizer, JointOptimizer)
    for done in range(10):
        assert [g["lr"] for g in optimisation.optimizer.param_groups] == pytest.approx(
            [0.01 * (1 - done / 10)] * 2
        )
        before = [p.detach().clone() for p in optimisation.parameters]
        step(optimisation, done)
        for old, new in zip(before, optimisation.parameters, strict=True):
            assert not torch.equal(old, new)
    step(optimisation, 10)
    last = [p.detach().clone() for p in optimisation.parameters]
    step(optimisation, 11)
    for old, new in zip(last, optimisation.parameters, strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("algorithm", ["adamw", "muon"])
def test_its_state_survives(algorithm: str) -> None:
    policy, optimisation = made(algorithm)
    for seed in range(3):
        step(optimisation, seed)
    kept = copy.deepcopy((optimisation.optimizer.state_dict(), optimisation.scheduler.state_dict()))
    weights = [p.detach().clone() for p in policy.parameters()]
    step(optimisation, 3)

    other, restored = made(algorithm)
    for parameter, weight in zip(other.parameters(), weights, strict=True):
        parameter.data = weight
    restored.optimizer.load_state_dict(kept[0])
    restored.scheduler.load_state_dict(kept[1])
    step(restored, 3)
    for ours, theirs in zip(other.parameters(), policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("algorithm", ["adamw", "muon"])
def test_a_gradient_that_is_not_finite_moves_nothing(algorithm: str) -> None:
    policy, optimisation = made(algorithm)
    before = [p.detach().clone() for p in policy.parameters()]
    for parameter in optimisation.parameters:
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimisation.step()
    for old, new in zip(before, policy.parameters(), strict=True):
        assert torch.equal(old, new)
