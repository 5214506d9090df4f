"""What loading and measuring find out is told by its key."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import NOWHERE, OUT_OF_MEMORY, SHORT, eval_config, raising, train_config

from klvi.commands import eval as eval_command
from klvi.commands import sample
from klvi.errors import RunError, UserError
from klvi.runs.assembly import assemble_evaluator
from klvi.runs.schema import SampleConfig

PLACES = [
    ("klvi.samplers.ancestral.Decoded.concatenate", "decoding", "engine.batch_size"),
    ("klvi.samplers.ancestral._scores", "scoring", "engine.micro_batch_tokens"),
    ("klvi.evaluation.evaluator.evaluate", "evaluating", "evaluation.samples"),
    ("klvi.rewards.contains.Contains.__call__", "computing rewards", "reward."),
    ("klvi.runs.assembly.load_prior", "loading", "model.dtype"),
]


@pytest.mark.parametrize(("place", "stage", "key"), PLACES)
def test_memory_that_runs_out_names_the_stage_and_the_key(
    place: str, stage: str, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shared = eval_config(train_config(**SHORT))
    shown = shared.model_dump(include=set(SampleConfig.model_fields))
    monkeypatch.setattr(place, raising(OUT_OF_MEMORY))
    commands = [
        lambda: eval_command.run(shared.model_copy(update={"out": str(tmp_path / "e")}), NOWHERE)
    ]
    if stage != "evaluating":
        commands.append(lambda: sample.run(SampleConfig.model_validate(shown | {"n": 3}), NOWHERE))
    for command in commands:
        with pytest.raises(RunError) as caught:
            command()
        (line,) = caught.value.problems
        assert f"while {stage}" in line
        assert key in line


def test_what_is_wrong_with_gold_is_not_blamed_on_the_reward(tmp_path: Path) -> None:
    file = tmp_path / "score.py"
    file.write_text("def score(texts, answer):\n    return [0.0] * len(texts)\n")
    gold = {"name": "python", "function": f"{file}:score"}
    with pytest.raises(UserError, match=r"^gold\.function: .* takes answer, which is no column"):
        assemble_evaluator(train_config(gold=gold), adapted=True)
    with pytest.raises(UserError, match=r"^reward\.function: .* takes answer"):
        assemble_evaluator(train_config(reward=gold, gold=gold), adapted=True)
