from __future__ import annotations

from pathlib import Path

import pytest

from klvi.config.compose import SCHEMAS
from klvi.policy.schema import ModelConfig
from klvi.rewards.schema import PythonReward
from klvi.schema import LOCATIONS


def test_what_is_read_is_named_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "score.py").touch()
    (tmp_path / "prior").mkdir()
    reward = PythonReward(name="python", function="score.py:score")
    assert reward.function == f"{tmp_path}/score.py:score"
    assert ModelConfig(name="mine", path="./prior").path == f"{tmp_path}/prior"


def test_a_hub_id_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ModelConfig(name="gpt2", path="openai-community/gpt2").path == "openai-community/gpt2"


def test_every_place_of_a_users_is_known_as_one() -> None:
    found = {
        name
        for config in SCHEMAS.values()
        for name, field in config.model_fields.items()
        if "expanduser" in f"{field.annotation}{field.metadata}"
    }
    assert found == set(LOCATIONS)
