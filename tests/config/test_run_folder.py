"""The configuration of a run is the base of what is done with its policy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from klvi.config.check import check
from klvi.config.command_line import parse
from klvi.config.compose import composer, to_config
from klvi.config.schema import TrainConfig
from klvi.errors import UserError


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that differs from all defaults."""
    monkeypatch.chdir(tmp_path)
    overrides = [
        "model=gpt2",
        "model.revision=r1",
        "reward=length",
        "reward.target=7",
        "objective=gdc",
        "target=constraint",
        "beta=0.7",
        "lora.r=3",
        "rollout.max_new_tokens=9",
    ]
    with composer("train") as hydra:
        config = to_config("train", hydra.compose(overrides))
    folder = tmp_path / "runs" / "gdc" / "1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return folder


def configured(command: str, *words: str) -> TrainConfig:
    checked = check(command, parse(words))
    with composer(checked.config_name) as hydra:
        return to_config(command, hydra.compose(words))


def test_what_is_not_set_is_as_in_the_run(run: Path) -> None:
    config = configured("eval", f"run={run}", "evaluation.samples=77", "beta=0.2")
    assert config.model.revision == "r1"
    assert (config.reward.name, config.reward.target) == ("length", 7)
    assert (config.target.name, config.lora.r, config.rollout.max_new_tokens) == (
        "constraint",
        3,
        9,
    )
    assert (config.evaluation.samples, config.beta, config.run) == (77, 0.2, str(run))


def test_a_key_of_the_runs_choice_can_be_set(run: Path) -> None:
    config = configured("sample", f"run={run}", "reward.target=3", "n=2")
    assert (config.reward.target, config.reward.unit, config.n) == (3, "words", 2)


def test_a_new_choice_keeps_nothing_of_the_old_one(run: Path) -> None:
    config = configured("eval", f"run={run}", "reward=contains", "target=posterior")
    assert config.reward.model_dump() == {
        "name": "contains",
        "text": "Paris",
        "case_sensitive": True,
    }
    assert config.target.name == "posterior"


def test_export_takes_the_runs_model(run: Path) -> None:
    config = configured("export", f"run={run}", "out=out")
    assert (config.model.revision, config.lora.r) == ("r1", 3)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["reward.text=a"], "reward.text: not a key of reward=length, but of reward=contains"),
        (
            ["model=tiny"],
            "model= and run= exclude each other: a run's policy has the run's model",
        ),
        (["lora.r=4"], "lora.r=4: klvi eval takes the LoRA of the run"),
        (["updates=4"], "updates: unknown key"),
        (["beta=-1"], "beta=-1: must be a number, greater than 0"),
    ],
)
def test_mistakes(words: list[str], line: str, run: Path) -> None:
    with pytest.raises(UserError) as caught:
        configured("eval", f"run={run}", *words)
    assert caught.value.problems == (line,)


@pytest.mark.parametrize("command", ["eval", "sample", "export", "resume"])
@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("none", "no such folder"),
        (".", "not the folder of a run: it has no config.yaml"),
        ("runs/gdc", "not a run but a folder of runs: 1"),
    ],
)
def test_folders_that_are_no_runs(command: str, folder: str, reason: str, run: Path) -> None:
    with pytest.raises(UserError) as caught:
        check(command, parse([f"run={folder}", *(["out=out"] if command == "export" else [])]))
    assert caught.value.problems == (f"run={folder}: {reason}",)


@pytest.mark.parametrize("content", ["beta: [", "- a list"])
def test_a_broken_config(content: str, run: Path) -> None:
    (run / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"^run=.*: its config.yaml is broken: .*[^\n]$"):
        check("eval", parse([f"run={run}"]))


def test_a_config_of_other_times(run: Path) -> None:
    stored = yaml.safe_load((run / "config.yaml").read_text())
    stored["rollout"]["temperature"] = 0.7
    del stored["beta"]
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(UserError) as caught:
        check("eval", parse([f"run={run}"]))
    assert caught.value.problems == (
        f"run={run}: its config.yaml: rollout.temperature: unknown key; rollout has "
        "max_new_tokens, batch_size, micro_batch_tokens, samples_per_prompt, engine, "
        "engine_memory",
        f"run={run}: its config.yaml: beta: is missing; give a number, greater than 0",
    )
