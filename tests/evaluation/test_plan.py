"""How many prompts an evaluation takes, and how many samples of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import prompted, train_config

from klvi.config.consistency import broken_rules
from klvi.evaluation.plan import Plan, evaluation_plan


@pytest.mark.parametrize(
    ("settings", "rows", "plan"),
    [
        ({}, 1, Plan(1, 512, 1024)),
        ({"samples": 80}, 1, Plan(1, 80, 1024)),
        ({}, 20, Plan(20, 64, 64)),
        ({}, 1000, Plan(24, 64, 64)),
        ({"samples": 512}, 1000, Plan(8, 64, 64)),
        ({"samples": 4000}, 20, Plan(20, 200, 200)),
        ({"samples": 64, "prior_samples": 640}, 3, Plan(2, 32, 320)),
        ({"prompts": 40, "samples_per_prompt": 30}, 1000, Plan(40, 30, 30)),
        ({"prompts": 40, "samples": 400}, 1000, Plan(40, 10, 10)),
        ({"samples_per_prompt": 10, "samples": 400}, 1000, Plan(40, 10, 10)),
    ],
)
def test_the_plan_of_an_evaluation(settings: dict[str, int], rows: int, plan: Plan) -> None:
    assert evaluation_plan(rows, **settings) == plan


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"samples": 100, "prompts": 10, "samples_per_prompt": 10}, "leave one null"),
        ({"ess_floor": 100.0}, "must be at most evaluation.samples_per_prompt=64"),
    ],
)
def test_evaluations_that_do_not_add_up(
    prompt_file: Path, changes: dict[str, object], key: str
) -> None:
    raw = prompted(prompt_file, evaluation=changes).model_dump(mode="json")
    lines = list(broken_rules("train", raw, set()))
    assert len(lines) == 1
    assert key in lines[0]
    alone = train_config(evaluation=changes)
    assert list(broken_rules("train", alone.model_dump(mode="json"), set())) == []
