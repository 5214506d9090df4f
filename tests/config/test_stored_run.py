"""The configuration of a run is the base of what is done with its policy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support import train_config

from klvi.config.command_line import parse
from klvi.config.compose import composer, to_config
from klvi.config.problems import check
from klvi.config.stored_run import run_config
from klvi.errors import UserError
from klvi.runs.schema import TrainConfig
from klvi.runs.stored import write_config


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
        "max_new_tokens=9",
    ]
    with composer("train") as hydra:
        config = to_config("train", hydra.compose(overrides))
    folder = tmp_path / "runs" / "gdc" / "1"
    folder.mkdir(parents=True)
    write_config(config.model_dump(mode="json"), folder)
    return folder


def configured(command: str, *words: str) -> TrainConfig:
    checked = check(command, parse(words))
    with composer(checked.config_name) as hydra:
        return to_config(command, hydra.compose(words))


def test_what_is_not_set_is_as_in_the_run(run: Path) -> None:
    config = configured("eval", f"run={run}", "evaluation.samples=77", "beta=0.2")
    assert config.model.revision == "r1"
    assert (config.reward.name, config.reward.target) == ("length", 7)
    assert (config.target.name, config.lora.r, config.max_new_tokens) == ("constraint", 3, 9)
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
        "count": False,
    }
    assert config.target.name == "posterior"


def test_export_takes_the_runs_model(run: Path) -> None:
    config = configured("export", f"run={run}", "out=out")
    assert (config.model.revision, config.lora.r) == ("r1", 3)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["reward.text=a"], "reward.text: not a key of reward=length, but of reward=contains"),
        (["model=tiny"], "model= and run= exclude each other: a run's policy has the run's model"),
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
    stored["engine"]["temperature"] = 0.7
    del stored["name"]
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(UserError) as caught:
        check("eval", parse([f"run={run}"]))
    assert caught.value.problems == (
        f"run={run}: its config.yaml: engine.temperature: unknown key; engine has name, kernels, "
        "batch_size, micro_batch_tokens, memory",
        f"run={run}: its config.yaml: name: is missing; give the name of a folder under runs/",
    )


def test_a_run_of_the_version_before_is_read(run: Path) -> None:
    """Its keys have moved: the support to the top level, the proposal out of the objective."""
    stored = yaml.safe_load((run / "config.yaml").read_text())
    engine = stored.pop("engine")
    stored["rollout"] = {
        "max_new_tokens": stored.pop("max_new_tokens"),
        "batch_size": 32,
        "micro_batch_tokens": engine["micro_batch_tokens"],
        "samples_per_prompt": stored.pop("samples_per_prompt"),
        "engine": "torch",
        "engine_memory": 0.2,
    }
    del stored["proposal"]
    stored["objective"] = {
        "name": "gdc",
        "proposal": "mixture",
        "prior_share": 0.25,
        "baseline": True,
        "divergence": "kl",
        "epochs": 1,
        "minibatches": 1,
    }
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    found = TrainConfig.model_validate(run_config(run))
    assert found.max_new_tokens == stored["rollout"]["max_new_tokens"]
    assert (found.engine.name, found.engine.batch_size, found.engine.memory) == ("torch", 32, 0.2)
    assert found.proposal.model_dump() == {"name": "mixture", "prior_share": 0.25}
    check("eval", parse([f"run={run}", "trust=true"]))


ODD = [
    *(
        "${oc.env:HOME}",
        "\\${x}",
        "\\\\${x}",
        "a\\\\\\${hydra:runtime.cwd}\\",
        "${",
        "$${x}",
        "}${",
    ),
    *("*a", "&a b", "!!python/object:os.system", "<<", "=", "1e5", "1:30", "yes", "null", "~"),
    *("2024-01-01", "...", "---", "\n...\n", "\x1b[31mπ", "'", "a: b", "- a", "\u2028"),
]


@pytest.mark.parametrize("command", ["eval", "sample", "resume"])
def test_stored_texts_stay_what_they_are(command: str, tmp_path: Path) -> None:
    terms = {text: {"reward": {"name": "contains", "text": text}} for text in ODD}
    terms["surrogate"] = {"reward": {"name": "contains", "text": "\ud800"}}
    reward = {"name": "sum", "terms": terms}
    config = train_config(model={"name": "m", "revision": "${oc.env:HOME}"}, reward=reward)
    write_config(config.model_dump(mode="json"), tmp_path)
    if command == "resume":
        found = TrainConfig.model_validate(run_config(tmp_path))
    else:
        found = configured(command, f"run={tmp_path}")
    assert found.reward == config.reward
    assert found.model == config.model


def test_export_keeps_a_stored_text(tmp_path: Path) -> None:
    config = train_config(model={"name": "${oc.env:HOME}", "revision": "\\\\${x}"})
    write_config(config.model_dump(mode="json"), tmp_path)
    assert configured("export", f"run={tmp_path}", "out=o").model == config.model


def test_what_the_user_sets_is_interpolated(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVISION", "r2")
    config = configured("eval", f"run={run}", "model.revision=${oc.env:REVISION}")
    assert config.model.revision == "r2"


def problems(command: str, *words: str) -> tuple[str, ...]:
    try:
        check(command, parse(words))
    except UserError as error:
        return error.problems
    return ()


def link(path: Path) -> None:
    path.symlink_to("config.yaml")


def fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("command", ["eval", "sample", "export", "resume"])
@pytest.mark.parametrize(
    ("make", "kind"), [(link, "a link"), pytest.param(fifo, "a FIFO", marks=pytest.mark.slow)]
)
def test_links_and_the_like_in_a_run(
    command: str, make: Callable[[Path], None], kind: str, run: Path
) -> None:
    (run / "checkpoints").mkdir()
    out = ["out=o"] if command == "export" else []
    linked = run.with_name("linked")
    linked.symlink_to(run)
    assert problems(command, f"run={linked}", *out) == ()
    make(run / "checkpoints" / "x")
    (line,) = problems(command, f"run={run}", *out)
    assert line == f"run={run}: checkpoints/x is {kind}, which klvi neither reads nor writes"


def test_gold_is_measured_of_a_run_that_had_none_and_left_out_of_one_that_had(run: Path) -> None:
    assert configured("eval", f"run={run}").gold is None
    config = configured("eval", f"run={run}", "gold=contains", "gold.text=Rome")
    assert (config.gold.name, config.gold.text, config.reward.name) == (
        "contains",
        "Rome",
        "length",
    )
    stored = run_config(run)
    write_config({**stored, "gold": {"name": "lexicon", "penalty": -3.0}}, run)
    assert configured("sample", f"run={run}").gold.penalty == -3
    assert configured("eval", f"run={run}", "gold=contains").gold.name == "contains"
    left_out = parse([f"run={run}", "gold=null"]).words
    assert configured("eval", *left_out).gold is None


def test_a_run_made_before_there_was_gold_is_read(run: Path) -> None:
    stored = run_config(run)
    stored.pop("gold", None)
    write_config(stored, run)
    assert configured("eval", f"run={run}").gold is None
    assert configured("eval", f"run={run}", "gold=length").gold.name == "length"
