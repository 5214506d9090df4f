"""Facts 4 and 9: where training starts, and where each objective ends, in exact numbers."""

from __future__ import annotations

import pytest
import torch
from support import train_config

from klvi.evaluation.enumeration import ExactEvaluator
from klvi.runs.assembly import assemble_evaluator, assemble_loop
from klvi.runs.schema import TrainConfig
from klvi.training.loop import Loop

SMALL = {"name": "enumerable", "letters": 3, "length": 3}


def config_of(objective: str, updates: int, lr: float) -> TrainConfig:
    return train_config(
        model=SMALL,
        max_new_tokens=3,
        reward={"name": "letters"},
        objective={"name": objective},
        updates=updates,
        batch_size=128,
        optim={"lr": lr, "beta2": 0.99},
    )


def assembled(config: TrainConfig) -> tuple[Loop, ExactEvaluator]:
    evaluator = assemble_evaluator(config, adapted=True)
    assert evaluator.enumeration is not None
    return assemble_loop(config, evaluator), evaluator.enumeration


@pytest.mark.parametrize("objective", ["rl", "kl", "gdc"])
def test_fact_9_log_ratios_are_0_and_stay_so_without_a_learning_rate(objective: str) -> None:
    loop, exact = assembled(config_of(objective, updates=3, lr=0.0))
    assert torch.equal(exact.log_policy(), exact.log_prior)
    loop.run()
    assert torch.equal(exact.log_policy(), exact.log_prior)


@pytest.mark.parametrize("objective", ["rl", "kl", "gdc"])
def test_a_learning_rate_moves_them(objective: str) -> None:
    loop, exact = assembled(config_of(objective, updates=1, lr=1e-3))
    loop.run()
    assert not torch.equal(exact.log_policy(), exact.log_prior)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "measure"), [("kl", "kl_target_reverse"), ("gdc", "kl_target_forward")]
)
def test_fact_4_kl_and_gdc_reach_the_posterior(objective: str, measure: str) -> None:
    loop, exact = assembled(config_of(objective, updates=60, lr=3e-3))
    before = exact.evaluate(0)[f"eval/{measure}"]
    loop.run()
    after = exact.evaluate(60)[f"eval/{measure}"]
    assert before > 0.05
    assert after < 0.003


@pytest.mark.slow
def test_fact_4_rl_collapses() -> None:
    loop, exact = assembled(config_of("rl", updates=60, lr=3e-3))
    before = exact.evaluate(0)
    loop.run()
    after = exact.evaluate(60)
    assert after["eval/entropy"] < 0.1 * before["eval/entropy"]
    assert after["policy/largest_probability"] > 0.9
