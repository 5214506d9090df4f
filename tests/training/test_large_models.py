"""The first hour with a model of one's own: what is chosen, what runs out, what never comes up."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from support import eval_config, train_config
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from klvi.commands import eval as eval_command
from klvi.commands import resume, sample
from klvi.commands.context import Context
from klvi.commands.schema import ResumeConfig
from klvi.errors import RunError, UserError
from klvi.policy.tiny import tiny_path
from klvi.runs.assembly import assemble_evaluator, assemble_run
from klvi.runs.defaults import facts_of
from klvi.runs.run import Run
from klvi.runs.schema import SampleConfig, TrainConfig
from klvi.tracking.output import Output
from klvi.training.loop import Loop

NOWHERE = Context(None, None, None, ())
SMALL: dict[str, Any] = {
    "evaluation": {"samples": 32, "prior_samples": 32, "ess_floor": 2.0, "every": 2},
    "checkpoint": {"every": 1},
    "batch_size": 16,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model in bfloat16, with more outputs than its tokenizer has tokens."""
    folder = tmp_path_factory.mktemp("models") / "small"
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_path()))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 5,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def started(config: TrainConfig, folder: Path) -> tuple[Run, str]:
    """A run, trained, and what its console said."""
    folder.mkdir(exist_ok=True)
    console = io.StringIO()
    run = assemble_run(config, folder, Output(Console(file=console, width=300)))
    run.train()
    return run, console.getvalue()


def test_what_was_chosen_is_in_the_run_s_config_and_on_its_console(
    checkpoint: Path, tmp_path: Path
) -> None:
    asked = train_config(
        **SMALL,
        model={"name": "small", "path": str(checkpoint)},
        max_new_tokens=4,
        updates=1,
    )
    _, console = started(asked, tmp_path)
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert stored["model"]["dtype"] == "float32"
    assert stored["optim"]["lr"] == 2e-3
    assert stored["engine"]["batch_size"] == 512
    first = console.splitlines()[0]
    for word in ("small", "optim.lr=0.002", "engine.batch_size=512", "model.dtype=float32"):
        assert word in first
    assert first in (tmp_path / "run.log").read_text()
    again = TrainConfig.model_validate(stored)
    _, console = started(again, tmp_path / "again")
    assert "chosen for" not in console


def test_facts_are_those_of_the_model_without_its_adapter(checkpoint: Path) -> None:
    config = train_config(model={"name": "small", "path": str(checkpoint)})
    evaluator = assemble_evaluator(config, adapted=True)
    plain = LlamaForCausalLM.from_pretrained(checkpoint)
    facts = facts_of(evaluator.policy.prior)
    assert facts.parameters == plain.num_parameters()
    assert facts.vocabulary == plain.config.vocab_size
    assert facts.cache_bytes == 2 * 2 * 2 * 4 * 4
    assert (facts.dtype, facts.device) == ("float32", "cpu")


def fail(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


OUT_OF_MEMORY = [
    ("klvi.samplers.ancestral.Decoded.concatenate", "decoding", "engine.batch_size"),
    ("klvi.samplers.ancestral._scores", "scoring", "engine.micro_batch_tokens"),
    ("klvi.evaluation.evaluator.evaluate", "evaluating", "evaluation.samples"),
    ("klvi.rewards.contains.Contains.__call__", "computing rewards", "reward."),
    ("klvi.runs.assembly.load_prior", "loading", "model.dtype"),
]


@pytest.mark.parametrize(("place", "stage", "key"), OUT_OF_MEMORY)
def test_memory_that_runs_out_names_the_stage_and_the_key(
    place: str, stage: str, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shared = eval_config(train_config(**SMALL))
    shown = shared.model_dump(include=set(SampleConfig.model_fields))
    monkeypatch.setattr(place, fail)
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


def test_memory_that_runs_out_in_an_update_fails_the_run_and_keeps_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    predict = Loop.predict

    def predict_once(loop: Loop, *arguments: Any, **options: Any) -> Any:
        return fail() if loop.update == 2 else predict(loop, *arguments, **options)

    monkeypatch.setattr(Loop, "predict", predict_once)
    config = train_config(**SMALL, updates=3, objective={"name": "gdc"})
    with pytest.raises(RunError, match=r"optim\.micro_batch_tokens"):
        started(config, tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-1", "step-2"]
    monkeypatch.setattr(Loop, "predict", predict)
    assert resume.run(ResumeConfig(run=str(tmp_path)), NOWHERE) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward": {"name": "contains", "text": "zzz"}}, ["reward 0", "0.089"]),
        (
            {
                "reward": {"name": "length"},
                "target": {"name": "constraint", "threshold": 5.0},
                "objective": {"name": "gdc"},
            },
            ["none of 32", "target.threshold"],
        ),
    ],
)
def test_a_reward_that_never_comes_up_is_one_warning(
    changes: dict[str, Any], words: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    changes = {**SMALL, **changes, "model": {"name": "small", "path": str(checkpoint)}}
    _, console = started(train_config(**changes, updates=1), tmp_path)
    warned = [line for line in console.splitlines() if "base rate" in line]
    assert len(warned) == 1
    assert all(word in warned[0] for word in words), warned


def test_a_constraint_that_no_listed_sequence_satisfies_is_refused(tmp_path: Path) -> None:
    target = {"name": "constraint", "threshold": 5.0}
    with pytest.raises(UserError, match=r"target=constraint: .* lower target\.threshold"):
        started(train_config(**SMALL, target=target, objective={"name": "gdc"}), tmp_path)


def test_a_reward_that_comes_up_is_none(tmp_path: Path) -> None:
    _, console = started(train_config(**SMALL), tmp_path)
    assert "base rate" not in console


@pytest.mark.parametrize("objective", ["kl", "gdc"])
def test_a_finished_run_is_extended(objective: str, tmp_path: Path) -> None:
    config = train_config(**SMALL, updates=2, objective={"name": objective}, optim={"lr": 0.01})
    started(config, tmp_path)
    adapter = tmp_path / "adapter" / "adapter_model.safetensors"
    before = adapter.read_bytes()
    assert resume.run(ResumeConfig(run=str(tmp_path), updates=5), NOWHERE) == 0
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["updates"] == 5
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["update"] for record in records] == [0, 1, 2, 3, 4, 5]
    assert [r["lr"] for r in records[1:]] == pytest.approx([0.01, 0.005, 0.006, 0.004, 0.002])
    assert adapter.read_bytes() != before
    assert json.loads((tmp_path / "summary.json").read_text())["update"] == 5


def test_an_extension_that_fails_keeps_the_adapter_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started(train_config(**SMALL, updates=1, objective={"name": "gdc"}), tmp_path)
    adapter = tmp_path / "adapter" / "adapter_model.safetensors"
    before = adapter.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "predict", fail)
        with pytest.raises(RunError):
            resume.run(ResumeConfig(run=str(tmp_path), updates=3), NOWHERE)
    assert adapter.read_bytes() == before
    assert resume.run(ResumeConfig(run=str(tmp_path)), NOWHERE) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["update"] == 3
    assert adapter.read_bytes() != before


def test_a_run_cannot_end_before_what_it_has_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started(train_config(**SMALL, updates=2), tmp_path)
    with pytest.raises(UserError, match=r"updates=1: .* 2"):
        resume.run(ResumeConfig(run=str(tmp_path), updates=1), NOWHERE)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["updates"] == 2
    assert resume.run(ResumeConfig(run=str(tmp_path), updates=2), NOWHERE) == 0
    assert "nothing to resume" in capsys.readouterr().out
    for step in (tmp_path / "checkpoints").iterdir():
        step.rename(tmp_path / step.name)
    with pytest.raises(UserError, match="checkpoints are gone"):
        resume.run(ResumeConfig(run=str(tmp_path), updates=9), NOWHERE)
