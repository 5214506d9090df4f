"""klvi's loop in TRL's trainer where TRL has it, and on accelerate where it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import train_config, weights

from klvi.objectives.gdc import GDC
from klvi.runs.assembly import assemble_run
from klvi.training.trl import trainer
from klvi.training.trl.trainer import has_ppo, trainer_for


def config_of(updates: int, algorithm: str = "adamw") -> Any:
    return train_config(
        updates=updates,
        batch_size=16,
        optim={"algorithm": algorithm, "schedule": "constant", "lr": 0.01},
        evaluation={"samples": 16, "prior_samples": 16, "every": 9, "ess_floor": 2},
    )


def train(config: Any, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    assemble_run(config, folder).train()


def assert_equal(folder: Path, other: Path) -> None:
    for name, weight in weights(folder).items():
        assert torch.equal(weight, weights(other)[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["adamw", "muon"])
def test_without_trls_trainer_a_run_goes_to_its_end_and_resumes(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "has_ppo", lambda: False)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(config_of(4, algorithm), whole)
    assert json.loads((whole / "manifest.json").read_text())["trainer"] == "accelerate"
    assert "has no PPO trainer: klvi's PPO runs on accelerate" in (whole / "run.log").read_text()
    for updates in (2, 4):
        train(config_of(updates, algorithm), resumed)
    assert_equal(whole, resumed)


@pytest.mark.trl_ppo
@pytest.mark.slow
def test_trls_trainer_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(config_of(3), tmp_path / "trl")
    manifest = json.loads((tmp_path / "trl" / "manifest.json").read_text())
    assert manifest["trainer"] == "trl.experimental.ppo"
    monkeypatch.setattr(trainer, "has_ppo", lambda: False)
    train(config_of(3), tmp_path / "accelerate")
    assert_equal(tmp_path / "trl", tmp_path / "accelerate")


def test_it_is_known_which_trl_has_ppo() -> None:
    try:
        from trl.experimental.ppo import PPOTrainer  # noqa: F401
    except ImportError:
        assert not has_ppo()
    else:
        assert has_ppo()


def test_an_objective_without_a_trainer_of_trls_is_run_alone() -> None:
    assert trainer_for(GDC()).name == "klvi"
