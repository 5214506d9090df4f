from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from klvi.config.command_line import parse
from klvi.config.problems import check
from klvi.errors import UserError

Problems = Callable[..., list[str]]


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Problems:
    """The problems of a command line, checked in an empty folder, which must stay as it was."""
    monkeypatch.chdir(tmp_path)

    def problems_of(command: str, *arguments: str) -> list[str]:
        before = sorted(tmp_path.rglob("*"))
        try:
            check(command, parse(arguments))
        except UserError as error:
            return list(error.problems)
        finally:
            assert sorted(tmp_path.rglob("*")) == before
        return []

    return problems_of
