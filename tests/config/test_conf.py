"""Every YAML file of `conf/` composes into a valid configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from klvi.config.compose import CONF_DIRECTORY, OF_A_RUN, SCHEMAS, composer, plain, to_config
from klvi.config.keys import keys
from klvi.runs.schema import TrainConfig

# What a choice cannot do without, having no sensible default.
NEEDS = {
    "reward/python": ["reward.function={folder}/score.py:score"],
    "reward/classifier": ["reward.path=someone/classifier"],
    "prompts/file": ["prompts.path={folder}/prompts.txt"],
    "model/enumerable": ["reward.text=b"],
    "target/constraint": ["objective=gdc"],
}
NEEDS_COMMAND = {"export": ["out=out"], "pretrain": ["out=out"]}
FILES = sorted(CONF_DIRECTORY.rglob("*.yaml"))
CHOICES = [file.relative_to(CONF_DIRECTORY).with_suffix("") for file in FILES]
GROUP_CHOICES = [choice for choice in CHOICES if len(choice.parts) == 2]
COMMANDS = sorted(str(choice) for choice in CHOICES if choice.parent == Path())


def names(group: str) -> list[str]:
    return [choice.name for choice in GROUP_CHOICES if choice.parts[0] == group]


def composed(command: str, *overrides: str) -> object:
    with composer(command) as hydra:
        return to_config(command, hydra.compose(overrides))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "score.py").write_text("def score(texts, prompts): return [0.0] * len(texts)\n")
    (tmp_path / "prompts.txt").write_text("Once\n")
    return tmp_path


@pytest.mark.parametrize("choice", GROUP_CHOICES, ids=str)
def test_every_choice_of_every_group_is_valid(choice: Path, folder: Path) -> None:
    group, name = choice.parts
    more = [override.format(folder=folder) for override in NEEDS.get(str(choice), [])]
    config = composed("train", f"{group}={name}", *more)
    assert isinstance(config, TrainConfig)
    if group in TrainConfig.model_fields:
        assert getattr(config, group).name == name


@pytest.mark.parametrize("model", names("model"))
@pytest.mark.parametrize("command", ["eval", "sample", "export"])
def test_every_model_serves_commands_that_do_not_train(command: str, model: str) -> None:
    more = ["reward.text=b"] if model == "enumerable" and command != "export" else []
    config = composed(command, f"model={model}", *more, *NEEDS_COMMAND.get(command, []))
    assert config.model.name == model


@pytest.mark.parametrize(
    "experiment", [c.name for c in GROUP_CHOICES if c.parts[0] == "experiment"]
)
@pytest.mark.parametrize("objective", ["rl", "kl", "gdc"])
def test_every_experiment_runs_quickly_with_every_objective(
    experiment: str, objective: str
) -> None:
    config = composed("train", f"experiment={experiment}", f"objective={objective}", "debug=quick")
    assert (config.objective.name, config.updates) == (objective, 3)


def test_an_experiment_may_add_to_one_objective() -> None:
    """`experiment/objective/NAME_OBJECTIVE.yaml` is read with both; what the user says wins."""
    chosen = ("experiment=enumerable", "objective=gdc")
    assert composed("train", *chosen).objective.proposal == "mixture"
    assert composed("train", *chosen, "objective.proposal=policy").objective.proposal == "policy"
    assert composed("train", "objective=gdc").objective.proposal == "policy"
    for choice in CHOICES:
        if choice.parent == Path("experiment/objective"):
            experiment, _, objective = choice.name.rpartition("_")
            assert experiment in names("experiment")
            assert objective in names("objective")


@pytest.mark.parametrize("command", COMMANDS)
def test_yaml_and_schema_have_the_same_keys(command: str) -> None:
    """What the YAML lacks could not be set, and what the schema lacks would be refused."""
    with composer(command) as hydra:
        raw = plain(hydra.compose([]))
    optional = {"lora"} if command in OF_A_RUN else set()
    expected = {key for key in keys(SCHEMAS[command], raw) if key.split(".")[0] not in optional}
    assert set(_dotted(raw, "")) == expected


def _dotted(raw: dict, prefix: str) -> list[str]:
    found = []
    for key, value in raw.items():
        found.append(f"{prefix}{key}")
        found += _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return found


@pytest.mark.parametrize("choice", GROUP_CHOICES, ids=str)
def test_every_choice_sets_all_keys_of_its_section(choice: Path) -> None:
    group, name = choice.parts
    with composer("train") as hydra:
        raw = plain(hydra.compose([f"{group}={name}"]))
    assert set(_dotted(raw, "")) == set(keys(TrainConfig, raw))


@pytest.mark.parametrize("file", FILES, ids=[str(choice) for choice in CHOICES])
def test_every_file_opens_with_the_command_that_runs_it(file: Path, folder: Path) -> None:
    opening = next(line for line in file.read_text().splitlines() if "@package" not in line)
    assert opening.startswith("# klvi "), opening
    choice = file.relative_to(CONF_DIRECTORY).with_suffix("")
    if choice == Path("model/base/causal_lm"):
        asked = "model.path="
    elif choice.parent == Path("experiment/objective"):
        experiment, _, objective = choice.name.rpartition("_")
        asked = f"experiment={experiment} objective={objective}"
    else:
        asked = f"{choice.parent}={choice.name}" if choice.parent != Path() else f"klvi {choice}"
    assert asked in opening


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_tells_every_top_level_key_and_group(command: str) -> None:
    template = OmegaConf.to_container(OmegaConf.load(CONF_DIRECTORY / f"{command}.yaml"))
    text = re.split(r"\n(?=Groups|Keys)", template["hydra"]["help"]["template"], maxsplit=1)[1]
    optional = {"lora", "evaluation"} if command in {"sample", "export"} else {"lora"}
    for key in set(SCHEMAS[command].model_fields) - optional:
        assert re.search(rf"(^  |[:, ]){key}\b", text, re.MULTILINE), key


def test_the_defaults_are_the_main_job() -> None:
    assert composed("train") == composed("train", "experiment=paris")


def test_an_experiment_overrides_choices_and_the_command_line_overrides_both() -> None:
    config = composed("train", "experiment=nonoffensive", "beta=0.7", "objective=gdc")
    assert (config.reward.name, config.beta, config.objective.name) == ("lexicon", 0.7, "gdc")


@pytest.mark.parametrize(
    "experiment", [c.name for c in GROUP_CHOICES if c.parts[0] == "experiment"]
)
def test_every_experiment_takes_another_reward(experiment: str) -> None:
    config = composed("train", f"experiment={experiment}", "reward=length")
    assert config.reward.name == "length"


def test_quick_overrides_the_batch_sizes_of_a_model() -> None:
    config = composed("train", "model=gpt2", "debug=quick")
    assert (config.batch_size, config.lora.targets) == (16, ["c_attn", "c_proj", "c_fc"])


def test_folders_of_runs_are_unique_and_told_by_name() -> None:
    with composer("train") as hydra:
        first = hydra.compose(["name=mine"]).hydra
        sweep = hydra.compose(["objective=rl"]).hydra.sweep.dir
        named = hydra.compose(["name=mine"]).hydra.sweep.dir
    pattern = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{6}"
    assert re.fullmatch(f"runs/mine/{pattern}", first.run.dir)
    assert re.fullmatch(f"runs/sweep/{pattern}", sweep)
    assert re.fullmatch(f"runs/mine/{pattern}", named)
