"""Mistakes on the command line: a line each, exit code 2, nothing written."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from support import Klvi

from klvi.cli import main


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["trian"], ["trian: unknown command; did you mean train?"]),
        (
            ["frobnicate"],
            [
                "frobnicate: unknown command; the commands are train, eval, sample, preferences, "
                "reward, runs, resume, "
                "export, pretrain, verify, env"
            ],
        ),
        (["beta=1"], ["beta=1: a command comes first, as in klvi train beta=1"]),
        (["train", "--mutlirun"], ["--mutlirun: unknown flag; did you mean --multirun?"]),
        (["train", "--cfg"], ["--cfg/-c: expected one argument"]),
        (
            ["train", "beat=1", "+lora.foo=1", "beta=-1", "seed=x", "reward=python"],
            [
                "beat: unknown key; did you mean beta?",
                "lora.foo: unknown key; lora has r, alpha, targets",
                "beta=-1: must be a number, greater than 0",
                "seed=x: must be a whole number, at least 0",
                "reward.function: is missing; give reward.function=FILE.py:NAME",
            ],
        ),
        (
            ["train", "-m", "objective=kl,gdc", "target=constraint,posterior", "beta=0,1"],
            [
                "beta=0: must be a number, greater than 0",
                "objective=kl with target=constraint: reverse KL to a hard constraint is "
                "infinite; use objective=gdc, or target=posterior with a small beta",
            ],
        ),
        (
            ["train", "target=ensemble", "target.spread=range"],
            [
                "target.spread=range: must be one of variance, std, min",
                "target=ensemble with reward=contains: an ensemble of one: the target is made of "
                "several named scores; use reward=sum of several terms, reward=model of "
                "several models, or reward=python with a "
                "dict of lists",
            ],
        ),
        (
            ["train", "target=product", "+target.terms.hard={target: {name: constraint}}"],
            [
                "objective=kl with target=product: reverse KL to a hard constraint is infinite; "
                "use objective=gdc, or target=posterior with a small beta",
            ],
        ),
        (["eval", "run=none", "seed=-1"], ["run=none: no such folder"]),
        (
            ["train", "-m", "objective=kl,gdc", "engine=vllm"],
            [
                "engine=vllm: vLLM is not installed; pip install 'klvi[vllm]' without "
                "-c constraints.txt (vLLM 0.33 needs torch 2.13.0, transformers below 5.20 and "
                "Python 3.11 or later), or use engine=torch"
            ],
        ),
        (
            ["train", "engine=graph", "device=cpu"],
            ["engine=graph with device=cpu: it needs CUDA; use engine=torch"],
        ),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_mistakes(arguments: list[str], lines: list[str], klvi: Klvi, tmp_path: Path) -> None:
    result = klvi(*arguments)
    assert result.stderr.splitlines() == [f"klvi: error: {line}" for line in lines]
    assert (result.returncode, result.stdout) == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_flags_work_in_any_place(klvi: Klvi) -> None:
    first = klvi("train", "--cfg", "job", "objective=rl", "beta=0.2")
    assert first.returncode == 0, first.stderr
    assert "beta: 0.2\n" in first.stdout
    assert klvi("train", "objective=rl", "--cfg", "job", "beta=0.2").stdout == first.stdout
    assert klvi("-c", "job", "train", "objective=rl", "beta=0.2").stdout == first.stdout


def test_cfg_of_a_run_shows_the_runs_values(klvi: Klvi, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        klvi("train", "--cfg", "job", "--resolve", "reward=length", "beta=0.7").stdout
    )
    shown = klvi("eval", "run=.", "--cfg", "job", "reward.target=3").stdout
    assert "name: length\n  target: 3\n" in shown
    assert "beta: 0.7\n" in shown


def test_a_closed_pipe_is_no_error(installed_klvi: Path) -> None:
    command = f"{installed_klvi} train --help | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stdout.startswith("klvi train: ")
    assert result.stderr == ""


def test_a_present_folder_that_is_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (["train"], ["env"], ["verify", "--help"]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("klvi: error: the present folder: No such file or directory")


def test_what_the_disk_refuses_before_there_is_a_job_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "conf/train.yaml")

    monkeypatch.setattr("klvi.cli.check", refuse)
    assert main(["train"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("klvi: error: conf/train.yaml: Permission denied; choose")


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["train", "-m", "seed=0,1", "hydra.sweep.dir=sweep"], None),
        (["train", "hydra.run.dir=run"], "run"),
    ],
)
def test_what_the_disk_refuses_to_hydra_is_one_line(
    words: list[str],
    refused: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), refused)

    monkeypatch.setattr("pathlib.Path.mkdir" if refused else "omegaconf.OmegaConf.save", full)
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"klvi: error: {refused or tmp_path / 'sweep'}: No space left on device; free"
    )
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.parametrize("out", ["out=a,b", "out=\x1b[31mred"])
def test_what_is_refused_is_not_missing_too(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("klvi: error: out=")
