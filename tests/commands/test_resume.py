"""A resume looks at a run only while nobody else writes in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import train_config

from klvi.commands import resume
from klvi.config.context import Context
from klvi.config.schema import ResumeConfig
from klvi.errors import UserError
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
