"""What a run was made of, and what is another since."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from klvi.files import MANIFEST
from klvi.runs.manifest import Resumed, changes, write_manifest
from klvi.runs.stored import write_config
from klvi.runs.trust import changed_code, made_here

VERSION = "1.2.3"
FACTS = {"versions": {"klvi": VERSION}, "device": "cpu"}


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """A configuration that names a file of each kind."""
    (tmp_path / "reward.py").write_text("def score(texts):\n    import helper, wide\n")
    (tmp_path / "helper.py").write_text("")
    (tmp_path / "prompts.txt").write_text("A\nB\n")
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior" / "weights").write_bytes(bytes(300_000))
    term = {"name": "python", "function": f"{tmp_path / 'reward.py'}:score"}
    return {
        "model": {"path": str(tmp_path / "prior")},
        "prompts": {"name": "file", "path": str(tmp_path / "prompts.txt")},
        "reward": {"name": "sum", "terms": {"mine": {"reward": term}}},
    }


@pytest.fixture
def run(tmp_path: Path, values: dict[str, Any]) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    write_manifest(values, write_config(values, folder), folder, FACTS)
    return folder


def test_a_run_that_is_as_it_was_is_this_users(run: Path, values: dict[str, Any]) -> None:
    assert changes(run, values, VERSION) == []
    assert made_here(run)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("reward.py", b"import helper\n", "code "),
        ("reward.py", None, "code "),
        ("helper.py", b"evil = 1\n", "code "),
        ("helper.py", None, "code "),
        ("prompts.txt", b"A\nC\n", "prompts.path="),
        ("prompts.txt", None, "prompts.path="),
        ("prior/weights", bytes(299_999) + b"x", "model.path="),
        ("prior/more", b"", "model.path="),
        ("run/config.yaml", b"{}\n...\n", "config.yaml"),
    ],
)
def test_what_is_another_is_named(
    run: Path, values: dict[str, Any], file: str, content: bytes | None, named: str
) -> None:
    path = run.parent / file
    path.unlink() if content is None else path.write_bytes(content)
    (line,) = changes(run, values, VERSION)
    assert named in line
    assert line.endswith("is gone" if content is None else "is another")


def test_code_that_has_come_to_be_is_named(run: Path, values: dict[str, Any]) -> None:
    wide = run.parent / "wide.py"
    wide.write_text("evil = 1\n")
    assert changes(run, values, VERSION) == [f"code {wide} is new"]


def test_code_of_a_model_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model" / "modeling.py"
    file.parent.mkdir()
    file.write_text("")
    values = {"model": {"path": str(file.parent), "trust_remote_code": True}}
    write_manifest(values, write_config(values, tmp_path), tmp_path, FACTS)
    assert changes(tmp_path, values, VERSION) == []
    file.write_text("evil = 1\n")
    assert f"code {file} is another" in changes(tmp_path, values, VERSION)
    assert changed_code(tmp_path) == (str(file),)


def test_another_version_of_klvi_is_named(run: Path, values: dict[str, Any]) -> None:
    assert changes(run, values, "2.0") == [f"klvi was {VERSION}, and is 2.0"]


@pytest.mark.parametrize("content", ["", "[" * 100_000, "[]", '{"code": 3'])
def test_a_broken_manifest_is_one_line(run: Path, values: dict[str, Any], content: str) -> None:
    (run / MANIFEST).write_text(content)
    (line,) = changes(run, values, VERSION)
    assert MANIFEST in line
    assert not made_here(run)


def test_a_forged_manifest_is_not_this_users(run: Path, values: dict[str, Any]) -> None:
    manifest = json.loads((run / MANIFEST).read_text())
    (run.parent / "reward.py").write_text("evil = 1\n")
    write_manifest(values, "another: text\n", run, FACTS)
    forged = json.loads((run / MANIFEST).read_text())
    (run / MANIFEST).write_text(json.dumps({**forged, "signature": manifest["signature"]}))
    assert not made_here(run)


def test_a_run_of_an_earlier_version_tells_of_nothing(run: Path, values: dict[str, Any]) -> None:
    (run / MANIFEST).unlink()
    assert changes(run, values, VERSION) == []


def test_how_a_run_went_on_is_listed(run: Path, values: dict[str, Any]) -> None:
    before = json.loads((run / MANIFEST).read_text())
    assert before["device"] == "cpu"
    assert before["resumed"] == []
    for update, accepted in ((4, []), (8, ["prompts.path=p is another"])):
        resumed = Resumed(update, accepted)
        write_manifest(values, write_config(values, run), run, FACTS, resumed)
    after = json.loads((run / MANIFEST).read_text())
    assert after["started"] == before["started"]
    assert [(each["update"], each["changed"]) for each in after["resumed"]] == [
        (4, []),
        (8, ["prompts.path=p is another"]),
    ]
    assert after["resumed"][0]["versions"] == FACTS["versions"]
    assert made_here(run)


@pytest.mark.parametrize("content", ["[" * 9, '{"resumed": 3, "started": []}', '{"resumed": {}}'])
def test_a_run_goes_on_whatever_its_manifest_was(
    run: Path, values: dict[str, Any], content: str
) -> None:
    (run / MANIFEST).write_text(content)
    write_manifest(values, write_config(values, run), run, FACTS, Resumed(1, ()))
    after = json.loads((run / MANIFEST).read_text())
    assert len(after["resumed"]) == 1
    assert isinstance(after["started"], str)
