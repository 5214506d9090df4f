from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from support import Klvi, command


@pytest.fixture
def klvi(tmp_path: Path) -> Klvi:
    """The command in an empty folder."""
    return partial(command, tmp_path)
