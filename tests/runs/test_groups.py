"""Several samples a prompt, where the objective needs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import prompted, train_config

from klvi.errors import UserError
from klvi.runs.assembly import assemble_evaluator, assemble_run
from klvi.runs.groups import samples_per_prompt

GDC = {"name": "gdc"}


def test_gdc_with_prompts_is_refused_without_groups(prompt_file: Path) -> None:
    config = prompted(prompt_file, max_new_tokens=2, samples_per_prompt=1)
    with pytest.raises(UserError, match=r"samples_per_prompt=1 .*30 prompts.*samples_per_prompt=8"):
        assemble_evaluator(config, adapted=True)
    assemble_evaluator(
        config.model_copy(update={"objective": train_config().objective}), adapted=True
    )


def test_groups_are_chosen_and_written(prompt_file: Path, tmp_path: Path) -> None:
    evaluation = {"samples": 32, "prior_samples": 32, "ess_floor": 2}
    assemble_run(prompted(prompt_file, updates=1, evaluation=evaluation), tmp_path).train()
    assert "samples_per_prompt: 8\n" in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("contexts", "batch", "expected"),
    [(1, 128, 1), (2, 128, 8), (9, 20, 5), (9, 7, 7), (9, 22, 8), (9, 2, 2), (9, 12, 6)],
)
def test_the_size_of_a_group(contexts: int, batch: int, expected: int) -> None:
    gdc, kl = train_config(objective=GDC).objective, train_config().objective
    assert samples_per_prompt(gdc, contexts, batch) == expected
    assert samples_per_prompt(kl, contexts, batch) == 1
