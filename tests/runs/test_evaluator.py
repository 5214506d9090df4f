"""Exact values and the frontier's check where users meet them: files, tables, warnings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import NOWHERE, eval_config, train_config

from klvi.commands import eval as eval_command
from klvi.metrics import estimators
from klvi.metrics.intervals import Estimate
from klvi.runs.assembly import assemble_run
from klvi.runs.schema import TrainConfig

MEASURED = {"samples": 64, "prior_samples": 64, "every": 1, "ess_floor": 2}


def config_of(**changes: object) -> TrainConfig:
    return train_config(objective={"name": "gdc"}, evaluation=MEASURED, updates=1, **changes)


def train(folder: Path, **changes: object) -> list[dict[str, object]]:
    assemble_run(config_of(**changes), folder).train()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def understated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KL that is wrong, as from a mask that forgets the tokens."""
    wrong = Estimate(-9.0, 0.0, 64, 63.0)
    monkeypatch.setattr(estimators, "kl_prior", lambda *_: wrong)


def test_every_evaluation_writes_exact_values(tmp_path: Path) -> None:
    start, end = train(tmp_path)
    assert start["exact/kl_prior"] == pytest.approx(0, abs=1e-12)
    assert end["exact/kl_prior"] > 1e-4
    assert (
        end["exact/log_z"]
        == start["exact/log_z"]
        == end["exact/log_z_lower"] + (end["exact/kl_target_reverse"])
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["exact"]["eval/kl_prior"] == end["exact/kl_prior"]
    assert summary["exact"]["target/entropy"] == end["exact/target/entropy"]
    assert set(summary["metrics"]) <= set(summary["exact"])
    log = (tmp_path / "run.log").read_text()
    assert "exact" in log
    assert "WARNING" not in log


def test_eval_writes_them_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, end = train(tmp_path)
    config = eval_config(config_of(), run=str(tmp_path))
    assert eval_command.run(config, NOWHERE) == 0
    report = json.loads((tmp_path / "eval.json").read_text())
    assert report["exact"]["eval/kl_prior"] == pytest.approx(end["exact/kl_prior"], abs=1e-9)
    assert " exact " in capsys.readouterr().out


def test_a_point_above_the_frontier_is_shouted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    understated(monkeypatch)
    train(tmp_path)
    for text in ((tmp_path / "run.log").read_text(), capsys.readouterr().out):
        assert "WARNING update 0: reward" in text
        assert "WARNING update 1: reward" in text
        assert "no policy can, so the KL or log Z is wrong" in text


def test_eval_shouts_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    understated(monkeypatch)
    eval_command.run(eval_config(config_of()), NOWHERE)
    assert "WARNING reward" in capsys.readouterr().out


def test_the_frontier_is_the_posteriors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    understated(monkeypatch)
    train(tmp_path, target={"name": "constraint"})
    assert "WARNING" not in (tmp_path / "run.log").read_text()
