"""Who made a run."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import platformdirs
import pytest

from klvi.files import digest
from klvi.runs import trust
from klvi.runs.stored import write_config
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


def test_code_that_has_come_to_be_is_told(tmp_path: Path) -> None:
    code = tmp_path / "reward.py"
    code.write_text("import helper\n")
    values = {"reward": {"name": "python", "function": f"{code}:f"}}
    digests = {str(code): digest(code)}
    manifest = {"code": digests, "signature": signature(write_config(values, tmp_path), digests)}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert changed_code(tmp_path) == ()
    (tmp_path / "helper.py").write_text("")
    assert changed_code(tmp_path) == (str(tmp_path / "helper.py"),)
    code.unlink()
    os.mkfifo(code)  # who opens it waits for ever
    assert changed_code(tmp_path) == (str(code),)


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


def test_a_spoilt_secret_is_renewed_once(
    run: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loosen(state / "secret")
    judge = trust._is_spoilt
    others: list[str | None] = []

    def slow(file: Path) -> bool:
        """Another process sees it too, and renews it at once."""
        monkeypatch.setattr(trust, "_is_spoilt", judge)
        spoilt = judge(file)
        others.append(signature(CONFIG, {}))
        return spoilt

    monkeypatch.setattr(trust, "_is_spoilt", slow)
    assert signature(CONFIG, {}) == others[0] is not None


def test_a_secret_that_cannot_be_read_now_is_kept(
    run: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(trust, "open_regular", refuse)
        assert signature(CONFIG, {}) is None
        assert changed_code(run) is None
    assert f"{state / 'secret'}: Too many open files; raise" in capsys.readouterr().err
    assert made_here(run)


@pytest.mark.parametrize("place", ["state", "~/state", "."])
def test_no_secret_in_the_present_folder(
    place: str, run: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", place)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    (work / place).mkdir(parents=True)
    state.rename(work / place / "klvi")
    monkeypatch.chdir(work)
    assert changed_code(run) is None  # though a forger's secret lies ready
    before = sorted(work.rglob("*"))
    signature(CONFIG, {})
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize("earlier", [False, True])
def test_without_a_home_there_is_no_secret(
    earlier: bool,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def nobody(key: object) -> NoReturn:
        raise KeyError(key)

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    if earlier:  # what platformdirs gave
        monkeypatch.setattr(platformdirs, "user_state_path", lambda name: Path("~/s", name))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert signature(CONFIG, {}) is None
    assert changed_code(run) is None
    assert list(Path.cwd().iterdir()) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert "runs are not signed" in line
    assert "set" in line
    assert "HOME" in line


def test_nothing_is_left_beside_the_secret(run: Path, state: Path) -> None:
    assert [path.name for path in state.iterdir()] == ["secret"]
