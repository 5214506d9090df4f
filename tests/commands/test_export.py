"""`klvi export`: what is known before anything is written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from klvi.cli import main


def test_a_model_that_finds_no_room_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "model"
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=1 << 40, free=1000))
    assert main(["export", "model=enumerable", f"out={out}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"klvi: error: out={out}: needs ")
    assert not out.parent.exists()
