"""`klvi resume`: a run goes on, while nobody else writes in it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import NOWHERE, OUT_OF_MEMORY, SHORT, raising, summary, train_config

from klvi.commands import resume
from klvi.commands.schema import ResumeConfig
from klvi.errors import RunError, UserError
from klvi.files.checksums import write_checksums
from klvi.runs.assembly import assemble_run
from klvi.runs.stored import write_config
from klvi.training.loop import Loop


@pytest.mark.parametrize(
    ("finished", "changed"), [(True, []), (False, ["klvi was 0, and is 1"]), (False, [])]
)
def test_the_lock_comes_first(
    finished: bool, changed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(train_config().model_dump(mode="json"), tmp_path)
    seen: list[str] = []

    @contextlib.contextmanager
    def claimed(*_: object) -> Iterator[None]:
        seen.append("locked")
        yield
        seen.append("released")

    def spy(name: str, result: object) -> Any:
        return lambda *_: seen.append(name) or result

    monkeypatch.setattr(resume, "claimed", claimed)
    monkeypatch.setattr(resume, "is_finished", spy("is_finished", finished))
    monkeypatch.setattr(resume, "changes", spy("changes", changed))
    monkeypatch.setattr(resume, "updates_saved", spy("updates_saved", 99))
    with contextlib.suppress(UserError):
        resume.run(ResumeConfig(run=str(tmp_path)), NOWHERE)
    assert seen[:2] == ["locked", "is_finished"]
    assert finished == (seen[-1] == "released")


def test_no_folder_is_made_for_a_run_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no-run"):
        resume.run(ResumeConfig(run=str(tmp_path / "no-run")), NOWHERE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_another_prior_is_accepted_where_asked_for_and_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = train_config(**SHORT)
    assemble_run(config, tmp_path).train()
    for file in tmp_path.glob("checkpoints/*/prior.json"):
        stored = json.loads(file.read_text())
        file.write_text(json.dumps(stored | {"weights_32": "0"}))
        write_checksums(file.parent)
    before = (tmp_path / "manifest.json").read_text()

    def resumed(**options: Any) -> int:
        asked = ResumeConfig(run=str(tmp_path), updates=3, **options)
        return resume.run(asked, NOWHERE)

    with pytest.raises(UserError, match=r"another prior .* or add changed=true"):
        resumed()
    assert (tmp_path / "manifest.json").read_text() == before
    capsys.readouterr()
    assert resumed(changed=True) == 0
    assert "warning: the prior is another since the run began" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (again,) = manifest["resumed"]
    assert (again["update"], again["changed"]) == (2, ["the prior is another"])
    assert manifest["prior"].keys() == {"weights_32", "vocabulary", "commit"}
    assert (manifest["device"], manifest["engine"]) == ("cpu", "torch")
    assert manifest["tokens_by_row"] is True


@pytest.mark.slow
def test_memory_that_runs_out_in_an_update_fails_the_run_and_keeps_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    predict, out_of_memory = Loop.predict, raising(OUT_OF_MEMORY)

    def predict_once(loop: Loop, *arguments: Any, **options: Any) -> Any:
        return out_of_memory() if loop.update == 2 else predict(loop, *arguments, **options)

    monkeypatch.setattr(Loop, "predict", predict_once)
    config = train_config(**SHORT, updates=3, objective={"name": "gdc"})
    with pytest.raises(RunError, match=r"optim\.micro_batch_tokens"):
        assemble_run(config, tmp_path).train()
    assert summary(tmp_path)["status"] == "failed"
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-1", "step-2"]
    monkeypatch.setattr(Loop, "predict", predict)
    assert resume.run(ResumeConfig(run=str(tmp_path)), NOWHERE) == 0
    assert summary(tmp_path)["status"] == "finished"


@pytest.mark.parametrize("objective", [pytest.param("kl", marks=pytest.mark.slow), "gdc"])
def test_a_finished_run_is_extended(objective: str, tmp_path: Path) -> None:
    config = train_config(**SHORT, updates=2, objective={"name": objective}, optim={"lr": 0.01})
    assemble_run(config, tmp_path).train()
    adapter = tmp_path / "adapter" / "adapter_model.safetensors"
    before = adapter.read_bytes()
    assert resume.run(ResumeConfig(run=str(tmp_path), updates=5), NOWHERE) == 0
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["updates"] == 5
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["update"] for record in records] == [0, 1, 2, 3, 4, 5]
    assert [r["lr"] for r in records[1:]] == pytest.approx([0.01, 0.005, 0.006, 0.004, 0.002])
    assert adapter.read_bytes() != before
    assert summary(tmp_path)["update"] == 5


@pytest.mark.slow
def test_an_extension_that_fails_keeps_the_adapter_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assemble_run(train_config(**SHORT, updates=1, objective={"name": "gdc"}), tmp_path).train()
    adapter = tmp_path / "adapter" / "adapter_model.safetensors"
    before = adapter.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "predict", raising(OUT_OF_MEMORY))
        with pytest.raises(RunError):
            resume.run(ResumeConfig(run=str(tmp_path), updates=3), NOWHERE)
    assert adapter.read_bytes() == before
    assert resume.run(ResumeConfig(run=str(tmp_path)), NOWHERE) == 0
    assert summary(tmp_path)["update"] == 3
    assert adapter.read_bytes() != before


def test_a_run_cannot_end_before_what_it_has_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assemble_run(train_config(**SHORT, updates=2), tmp_path).train()
    with pytest.raises(UserError, match=r"updates=1: .* 2"):
        resume.run(ResumeConfig(run=str(tmp_path), updates=1), NOWHERE)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["updates"] == 2
    assert resume.run(ResumeConfig(run=str(tmp_path), updates=2), NOWHERE) == 0
    assert "nothing to resume" in capsys.readouterr().out
    for step in (tmp_path / "checkpoints").iterdir():
        step.rename(tmp_path / step.name)
    with pytest.raises(UserError, match="checkpoints are gone"):
        resume.run(ResumeConfig(run=str(tmp_path), updates=9), NOWHERE)


def test_a_run_that_became_another_while_its_lock_was_waited_for_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, code, traces = tmp_path / "run", tmp_path / "reward.py", tmp_path / "traces"
    run.mkdir()
    code.write_text(f"open({str(traces)!r}, 'w')\n")
    config = train_config().model_dump(mode="json")
    write_config(config, run)

    @contextlib.contextmanager
    def claimed(*_: object) -> Iterator[None]:
        reward = {"name": "python", "function": f"{code}:score"}
        write_config(config | {"reward": reward}, run)
        yield

    monkeypatch.setattr(resume, "claimed", claimed)
    with pytest.raises(UserError, match=r"reward\.function=.* is code .* add trust=true"):
        resume.run(ResumeConfig(run=str(run)), NOWHERE)
    assert not traces.exists()
