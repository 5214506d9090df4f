from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Klvi = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def klvi(installed_klvi: Path, tmp_path: Path) -> Klvi:
    """The installed command in an empty folder, as a user of the test's own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(installed_klvi), *arguments],
            cwd=tmp_path,
            env={
                "PATH": f"{installed_klvi.parent}:/usr/bin:/bin",
                "XDG_STATE_HOME": os.environ["XDG_STATE_HOME"],
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return run
