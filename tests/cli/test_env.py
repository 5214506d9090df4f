"""`klvi env` says what is installed, and checks a model."""

from __future__ import annotations

from pathlib import Path

import torch
from support import Klvi

from scripts.small_models import save, small_model


def test_versions_and_the_check_are_printed(klvi: Klvi, tmp_path: Path) -> None:
    result = klvi("env", "model=enumerable", "device=cpu", OMP_NUM_THREADS="1")
    assert (result.returncode, result.stderr) == (0, "")
    facts = dict(line.split(None, 1) for line in result.stdout.splitlines() if " " in line.strip())
    assert facts["torch"] == torch.__version__
    assert {"python", "klvi", "peft", "processor"} <= facts.keys()
    assert facts["passes"] == "as fast as can be"
    assert "klvi gives this model's own numbers" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_bidirectional_model_is_refused(klvi: Klvi, tmp_path: Path) -> None:
    folder = save(small_model("bert", is_decoder=False, num_hidden_layers=1), tmp_path / "bert")
    result = klvi("env", f"model.path={folder}", "device=cpu", OMP_NUM_THREADS="1")
    assert result.returncode == 2
    assert "torch" in result.stdout
    (line,) = result.stderr.splitlines()
    assert "BertLMHeadModel is no causal language model" in line
