"""Who made a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from klvi.files import digest
from klvi.runs import trust
from klvi.runs.trust import changed_code, made_here, signature

CONFIG = "name: kl\n...\n"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    trust._warn.cache_clear()
    return tmp_path / "state" / "klvi"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    code = tmp_path / "reward.py"
    code.write_text("def f(texts): return texts\n")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    digests = {str(code): digest(code)}
    manifest = {"code": digests, "signature": signature(CONFIG, digests)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_run_is_of_whoever_signed_it(run: Path, state: Path) -> None:
    assert made_here(run)
    assert (state / "secret").stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700
    (state / "secret").write_bytes(os.urandom(32))
    assert changed_code(run) is None


def test_a_run_without_manifest_is_nobodys(run: Path) -> None:
    (run / "manifest.json").unlink()
    assert not made_here(run)


def test_changed_code_is_told_from_a_changed_configuration(run: Path, tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text("import os\n")
    assert changed_code(run) == (str(tmp_path / "reward.py"),)
    (tmp_path / "reward.py").unlink()
    assert changed_code(run) == (str(tmp_path / "reward.py"),)
    (run / "config.yaml").write_text(CONFIG.replace("kl", "rl"))
    assert changed_code(run) is None


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"a":' * 100_000,
        b"\xff\xfe",
        '{"code": {}, "signature": null}',
        '{"code": [], "signature": "00"}',
        '{"code": {"/dev/zero": 1}, "signature": "00"}',
        '{"code": {}, "signature": "\\ud800"}',
        '{"code": {"/dev/zero": "00"}, "signature": "é"}',
    ],
    ids=range(10),
)
def test_a_forged_manifest_proves_nothing(run: Path, manifest: str | bytes) -> None:
    content = manifest if isinstance(manifest, bytes) else manifest.encode()
    (run / "manifest.json").write_bytes(content)
    assert changed_code(run) is None


def test_files_of_an_unsigned_manifest_are_not_opened(run: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # who opens it waits for ever
    forged = {"code": {str(fifo): "00"}, "signature": "00"}
    (run / "manifest.json").write_text(json.dumps(forged))
    assert changed_code(run) is None


def loosen(file: Path) -> None:
    file.chmod(0o644)


def link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def shorten(file: Path) -> None:
    file.write_bytes(b"short")


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


@pytest.mark.parametrize("spoil", [loosen, link, shorten, fifo])
def test_a_secret_that_others_may_know_is_renewed(
    run: Path, state: Path, spoil: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    before = signature(CONFIG, {})
    spoil(state / "secret")
    assert not made_here(run)
    after = signature(CONFIG, {})
    assert after not in {None, before}
    assert signature(CONFIG, {}) == after
    assert capsys.readouterr().err.count("klvi renews it") == 1


def test_without_a_place_for_the_secret_runs_are_not_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert signature(CONFIG, {}) is None
    assert signature(CONFIG, {}) is None
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "runs are not signed" in err
    assert str(platformdirs.user_state_path("klvi")) in err


def test_nothing_is_left_beside_the_secret(run: Path, state: Path) -> None:
    assert [path.name for path in state.iterdir()] == ["secret"]
