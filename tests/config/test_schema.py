from __future__ import annotations

from pathlib import Path

import pytest

from klvi.config.schema import ModelConfig, PythonReward


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
