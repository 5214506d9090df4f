"""Which files are the code of a run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from klvi.rewards.code import code_files, imported
from klvi.rewards.python import PythonFunction
from klvi.runs.schema import TrainConfig

REWARD = """
import json, os.path, torch, klvi.contexts, absent
import plain as other
from pack import inner, NAME
import space.deep.leaf
if json:
    try:
        import broken
    except SyntaxError:
        pass

def score(texts):
    from lazy import deeper as imported_here
    import importlib
    importlib.import_module("by_name")
    return [0.0] * len(texts)
"""
FILES = {
    "reward.py": REWARD.replace(", torch", "").replace(", absent", ""),
    "plain.py": "import reward",
    "json.py": "raise SystemExit  # Python's own comes first",
    "klvi.py": "raise SystemExit  # and klvi",
    "pack/__init__.py": "from . import sibling\\nfrom .sub import *\\nNAME = 1",
    "pack/inner.py": "from .. import nothing\\nfrom .sub.lowest import x",
    "pack/sibling.py": "import top",
    "pack/sub/__init__.py": "",
    "pack/sub/lowest.py": "x = '\\\\d'",
    "pack/unused.py": "",
    "space/deep/leaf.py": "",
    "broken.py": "def (",
    "lazy.py": "deeper = 1",
    "by_name.py": "",
    "top.py": "async def f():\\n    import plain",
    "unused.py": "",
    "data.txt": "",
}
USED = set(FILES) - {"json.py", "klvi.py", "pack/unused.py", "unused.py", "data.txt"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / "code" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("\\n", "\n"))
    return tmp_path / "code"


def below(folder: Path, files: object) -> set[str]:
    return {str(Path(str(file)).relative_to(folder)) for file in files}  # type: ignore[attr-defined]


def test_what_a_reward_imports_from_beside_it_is_code(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert below(folder, imported(folder / "reward.py")) == USED
    assert capfd.readouterr() == ("", "")


def test_that_is_what_runs(folder: Path) -> None:
    (folder / "pack/inner.py").write_text("from .sub.lowest import x")
    reward = PythonFunction.load(f"{folder / 'reward.py'}:score")
    reward(["a"], [])
    assert reward.file is not None
    specs = (module.__spec__ for module in reward.file._modules.values())
    origins = [spec.origin for spec in specs if spec is not None and spec.origin is not None]
    assert below(folder, origins) == USED - {"broken.py"}
    assert not {"lazy", "by_name", "pack.inner"} & set(sys.modules)


def test_neighbours_of_a_link_lie_where_it_leads(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.py"
    link.symlink_to(folder / "top.py")
    values = {"reward": {"name": "python", "function": f"{link}:f"}}
    assert set(code_files(TrainConfig, values)) == {link, *(folder / f for f in USED)}


@pytest.mark.parametrize(
    "source",
    [
        *("import a..b", "\0", "(" * 5000, "from . import x", "x = '\ud800'"),
        *("import_module('')", "import_module('../x')", "import_module('a\\0')", "__import__(1)"),
    ],
    ids=range(9),
)
def test_odd_sources_import_nothing(source: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_bytes(source.encode("utf-8", "surrogatepass"))
    assert list(imported(tmp_path / "x.py")) == []


def trusted(folder: Path, path: Path) -> set[str]:
    judge = {"name": "classifier", "path": str(path), "trust_remote_code": True}
    return below(
        folder,
        code_files(TrainConfig, {"reward": {"name": "sum", "terms": {"a": {"reward": judge}}}}),
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An adapter whose base model has code of its own."""
    for name in ("base/modeling.py", "base/sub/more.py", "base/weights.bin", "adapter/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "base/config.json").write_text("{}")
    settings = {"base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(settings))
    return tmp_path


BASE = {"base/modeling.py", "base/sub/more.py", "base/config.json"}


def test_a_model_brings_code_along(model: Path) -> None:
    assert trusted(model, model / "base") == BASE
    assert trusted(model, model / "adapter") == BASE | {"adapter/adapter_config.json"}
    values = {"model": {"path": str(model / "base"), "trust_remote_code": False}}
    assert list(code_files(TrainConfig, values)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_text('{"base_model_name_or_path": ""}'),
        lambda file: file.write_text('{"base_model_name_or_path": "../adapter"}'),
        lambda file: file.write_text('{"base_model_name_or_path": 3}'),
        lambda file: file.write_text("[" * 100_000),
        lambda file: file.write_bytes(b"\xff"),
    ],
)
def test_odd_adapters_have_no_base(
    change: Callable[[Path], None], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model / "base")
    change(model / "adapter/adapter_config.json")
    assert trusted(model, model / "adapter") == {"adapter/adapter_config.json"}


@pytest.mark.parametrize(
    "path", ["loop", "a\0b", "\ud800", "~no-such-user/x", "fifo", "none", "", "."]
)
def test_odd_places_hold_no_code(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    model = {"path": path, "trust_remote_code": True}
    reward = {"name": "python", "function": f"{path}:f"}
    found = list(code_files(TrainConfig, {"model": model, "reward": reward}))
    assert found == [Path(path).absolute()]  # which is found to be gone
