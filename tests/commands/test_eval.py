"""`klvi eval`: what it says of how a run's policy was chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from klvi.commands.eval import selection_note


@pytest.mark.parametrize(
    ("best", "seed", "told"),
    [("eval/reward", 1, True), ("eval/reward", 2, False), (None, 1, False)],
)
def test_samples_that_chose_the_policy_are_told(
    tmp_path: Path, best: str | None, seed: int, told: bool
) -> None:
    stored = f"checkpoint: {{best: {best or 'null'}}}\nevaluation: {{seed: 1}}\n"
    (tmp_path / "config.yaml").write_text(stored)
    assert selection_note(str(tmp_path), seed) is None  # of the last policy, as there is no adapter
    (tmp_path / "adapter").mkdir()
    note = selection_note(str(tmp_path), seed)
    assert (note is not None) == told
    assert note is None or "eval/reward" in note
    assert note is None or "evaluation.seed=2" in note
    assert selection_note(None, seed) is None
