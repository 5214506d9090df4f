"""What README shows of Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import klvi

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_the_notebook_of_the_readme_runs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if block.startswith("import klvi\n")]
    quick = block.replace("updates=50", "updates=2, batch_size=32").replace(
        "target)", "target, samples=64)"
    )
    assert quick.count("updates=2") == quick.count("samples=64") == 1
    names: dict[str, Any] = {}
    exec(quick, names)
    assert isinstance(names["evaluation"], klvi.Evaluation)
    assert "reward" in str(names["evaluation"])
    assert list(tmp_path.iterdir()) == []
