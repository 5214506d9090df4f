"""A resume looks at a run only while nobody else writes in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import train_config

from klvi.commands import resume
from klvi.commands.context import Context
from klvi.commands.schema import ResumeConfig
from klvi.errors import UserError
from klvi.files.checksums import write_checksums
from klvi.runs.assembly import assemble_run
from klvi.runs.stored import write_config


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
        resume.run(ResumeConfig(run=str(tmp_path)), Context(None, None, None, ()))
    assert seen[:2] == ["locked", "is_finished"]
    assert finished == (seen[-1] == "released")


def test_no_folder_is_made_for_a_run_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no-run"):
        resume.run(ResumeConfig(run=str(tmp_path / "no-run")), Context(None, None, None, ()))
    assert list(tmp_path.iterdir()) == []


def test_another_prior_is_accepted_where_asked_for_and_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = train_config(
        batch_size=16, evaluation={"samples": 16, "prior_samples": 16}, checkpoint={"every": 1}
    )
    assemble_run(config, tmp_path).train()
    for file in tmp_path.glob("checkpoints/*/prior.json"):
        stored = json.loads(file.read_text())
        file.write_text(json.dumps(stored | {"weights_32": "0"}))
        write_checksums(file.parent)
    before = (tmp_path / "manifest.json").read_text()

    def resumed(**options: Any) -> int:
        asked = ResumeConfig(run=str(tmp_path), updates=3, **options)
        return resume.run(asked, Context(None, None, None, ()))

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
