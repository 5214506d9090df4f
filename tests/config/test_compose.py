"""Every YAML file of `conf/` composes into a valid configuration."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from klvi.config.compose import CONF_DIRECTORY, SCHEMAS, composer, plain, to_config
from klvi.config.keys import keys
from klvi.errors import UserError

# What a choice cannot do without, having no sensible default.
NEEDS = {
    "reward/python": ["reward.function={folder}/score.py:score"],
    "reward/classifier": ["reward.path=someone/classifier"],
    "prompts/file": ["prompts.path={folder}/prompts.txt"],
    "model/enumerable": ["reward.text=b"],
    "target/constraint": ["objective=gdc"],
    "target/continuation": ["objective=gdc"],
    "target/empirical": ["target.path={folder}/prompts.txt"],
    "target/ensemble": ["reward=sum"],
    "target/forward_kl": ["target.reward_max=1"],
    "target/moments": ["++target.features.b={{reward: {{name: letters}}, mean: 0.5}}"],
    "target/model": ["target.path=someone/teacher"],
    "target/preference": ["reward=sum"],
    "proposal/adaptive": ["objective=gdc"],
    "proposal/mixture": ["objective=gdc"],
    "reward/model": ["reward.path={folder}"],
}
NEEDS_COMMAND = {
    **{key: ["out=out"] for key in ("export", "pretrain", "preferences")},
    "reward": ["out=out", "data=data"],
}
FILES = sorted(CONF_DIRECTORY.rglob("*.yaml"))
CHOICES = [file.relative_to(CONF_DIRECTORY).with_suffix("") for file in FILES]
GROUP_CHOICES = [choice for choice in CHOICES if len(choice.parts) == 2]
COMMANDS = sorted(str(choice) for choice in CHOICES if choice.parent == Path())


def names(group: str) -> list[str]:
    return [choice.name for choice in GROUP_CHOICES if choice.parts[0] == group]


def command_with(group: str, name: str = "") -> str:
    """A command that has a config group: train, where it has it and an objective for the choice."""
    if f"{group}/{name}" == "target/empirical":
        return "eval"
    return next((c for c in ("train", "eval") if group in SCHEMAS[c].model_fields), "train")


def composed(command: str, *overrides: str) -> object:
    with composer(command) as hydra:
        return to_config(command, hydra.compose(overrides))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "score.py").write_text("def score(texts, prompts): return [0.0] * len(texts)\n")
    (tmp_path / "prompts.txt").write_text("Once\n")
    return tmp_path


@pytest.mark.parametrize("name", sorted({*names("reward")} - {"diversity"}))
def test_gold_has_the_choices_of_rewards_and_all_their_keys(name: str, folder: Path) -> None:
    more = [line.format(folder=folder) for line in NEEDS.get(f"reward/{name}", [])]
    rewarded, golden = (
        composed("train", f"{group}={name}", *(line.replace("reward", group, 1) for line in more))
        for group in ("reward", "gold")
    )
    assert golden.gold == rewarded.reward  # type: ignore[attr-defined]
    assert rewarded.gold is None  # type: ignore[attr-defined]


def test_gold_has_the_choices_of_the_users_own_folder(tmp_path: Path) -> None:
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "short.yaml").write_text("name: length\ntarget: 3\n")
    with composer("train", str(tmp_path)) as hydra:
        assert hydra.choices("gold") == hydra.choices("reward")
        config = to_config("train", hydra.compose(["gold=short", "gold.scale=2"]))
    assert (config.gold.target, config.gold.scale) == (3, 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("choice", GROUP_CHOICES, ids=str)
def test_every_choice_of_every_group_is_valid_and_sets_all_keys(choice: Path, folder: Path) -> None:
    group, name = choice.parts
    more = [override.format(folder=folder) for override in NEEDS.get(str(choice), [])]
    command = command_with(group, name)
    with composer(command) as hydra:
        cfg = hydra.compose([f"{group}={name}", *more])
        assert set(_dotted(plain(cfg), "")) == set(keys(SCHEMAS[command], plain(cfg)))
        if str(choice) == "engine/vllm" and find_spec("vllm") is None:
            with pytest.raises(UserError, match="vLLM is not installed"):
                to_config(command, cfg)
            return
        config = to_config(command, cfg)
    if group in SCHEMAS[command].model_fields:
        assert getattr(config, group).name == name


@pytest.mark.parametrize("model", names("model"))
@pytest.mark.parametrize("command", ["eval", "sample", "preferences", "export"])
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


@pytest.mark.parametrize("experiment", [(), ("experiment=enumerable",)])
def test_an_objective_brings_its_proposal(experiment: tuple[str, ...]) -> None:
    """What the user says wins, and so does what an experiment says."""
    for objective, proposal in (("rl", "policy"), ("kl", "policy"), ("gdc", "mixture")):
        chosen = (*experiment, f"objective={objective}")
        assert composed("train", *chosen).proposal.name == proposal
    chosen = (*experiment, "objective=gdc", "proposal=adaptive")
    assert composed("train", *chosen).proposal.name == "adaptive"


@pytest.mark.parametrize("command", COMMANDS)
def test_yaml_and_schema_have_the_same_keys(command: str) -> None:
    """What the YAML lacks could not be set, and what the schema lacks would be refused."""
    with composer(command) as hydra:
        raw = plain(hydra.compose([]))
    assert set(_dotted(raw, "")) == set(keys(SCHEMAS[command], raw))


def _dotted(raw: dict, prefix: str) -> list[str]:
    found = []
    for key, value in raw.items():
        found.append(f"{prefix}{key}")
        found += _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return found


@pytest.mark.parametrize("file", FILES, ids=[str(choice) for choice in CHOICES])
def test_every_file_opens_with_the_command_that_runs_it(file: Path, folder: Path) -> None:
    opening = next(line for line in file.read_text().splitlines() if "@package" not in line)
    assert opening.startswith("# klvi "), opening
    choice = file.relative_to(CONF_DIRECTORY).with_suffix("")
    asked = f"{choice.parent}={choice.name}" if choice.parent != Path() else f"klvi {choice}"
    assert asked in opening


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_tells_every_top_level_key_and_group(command: str) -> None:
    template = OmegaConf.to_container(OmegaConf.load(CONF_DIRECTORY / f"{command}.yaml"))
    text = re.split(r"\n(?=Groups|Keys)", template["hydra"]["help"]["template"], maxsplit=1)[1]
    optional = (
        {"lora", "evaluation"} if command in {"sample", "preferences", "export"} else {"lora"}
    )
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
