"""`klvi verify`: the table, the plot and the exit code, with fewer updates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support import Klvi

from klvi.cli import main
from klvi.metrics import estimators
from klvi.metrics.intervals import Estimate

FEW = ("verify", "out=out", "repetitions=10", "anneal=0")
SMALL = (*FEW, "model.letters=3", "model.length=3", "batch_size=128")
QUICK = (*FEW, "updates=70", "batch_size=192", "evaluation.every=35")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_every_claim_holds(klvi: Klvi, tmp_path: Path) -> None:
    result = klvi(*QUICK)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert "FAIL" not in result.stdout
    assert "49 claims hold" in result.stdout
    assert (tmp_path / "out" / "convergence.png").read_bytes().startswith(PNG)
    assert "49 claims hold" in (tmp_path / "out" / "verify.log").read_text()
    for objective in ("rl", "kl", "gdc"):
        assert (tmp_path / "out" / objective / "summary.json").is_file()
    again = klvi(*QUICK)
    assert again.returncode == 2
    line = "out=out: exists and is not empty; choose a new folder"
    assert again.stderr == f"klvi: error: {line}\n"


@pytest.mark.slow
def test_a_wrong_estimator_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Entropy of one token too few, as where the end token is taken for padding."""
    monkeypatch.chdir(tmp_path)
    right = estimators.entropy

    def wrong(*arguments: object) -> Estimate:
        found = right(*arguments)
        return replace(found, value=0.8 * found.value)

    monkeypatch.setattr(estimators, "entropy", wrong)
    assert main([*SMALL, "updates=6", "evaluation.every=3"]) == 1
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    failed = {row[0] for row in rows if row and row[-1] == "FAIL"}
    assert "entropy" in failed
    assert not {"reward", "kl_prior", "entropy_token", "log_z"} & failed


def test_other_priors_are_refused(klvi: Klvi) -> None:
    result = klvi("verify", "model=tiny")
    assert result.returncode == 2
    assert "enumerable" in result.stderr
