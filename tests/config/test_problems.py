"""Every mistake is told in one line, all of them together, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from klvi.config import problems as check_module
from klvi.config.command_line import parse_overrides, sweep_of
from klvi.config.compose import composer

Problems = Callable[..., list[str]]

REWARDS = "classifier, contains, diversity, length, letters, lexicon, model, python, sum"
MODELS = "distilgpt2, enumerable, gpt2, pythia-70m, qwen3-0.6b, smollm2-135m, tiny"

ONE_PROBLEM = {
    # Unknown keys: the near spelling, never `+key`.
    "beat=0.3": "beat: unknown key; did you mean beta?",
    "lr=1e-4": "lr: unknown key; did you mean optim.lr?",
    "samples=10": "samples: unknown key; did you mean evaluation.samples?",
    "lora.rank=4": "lora.rank: unknown key; did you mean lora.r?",
    "+lora.foo=1": "lora.foo: unknown key; lora has r, alpha, targets",
    "++lora.foo=1": "lora.foo: unknown key; lora has r, alpha, targets",
    "+trainer.epochs=3": "trainer.epochs: unknown key; did you mean objective.epochs?",
    "objectiv=kl": "objectiv: unknown key; did you mean objective?",
    "experimnt=paris": "experimnt: unknown key; did you mean experiment?",
    "reward.words=[a]": "reward.words: not a key of reward=contains, but of reward=lexicon",
    "hydra.run.dri=x": "hydra.run.dri: unknown key of Hydra; did you mean hydra.run.dir?",
    "+beta=0.3": "+beta=0.3: has a value already; write it without the +",
    "+experiment=paris": "+experiment=paris: write it without the +",
    # Choices.
    "reward=contians": f"reward=contians: must be one of {REWARDS}; did you mean contains?",
    "model=gtp2": f"model=gtp2: must be one of {MODELS}; did you mean gpt2?",
    "objective=dpo": "objective=dpo: must be one of gdc, kl, rl",
    "reward.name=length": "reward.name=length: choose with reward=length",
    "reward=null": f"reward=null: must be one of {REWARDS}",
    "gold=contians": f"gold=contians: must be one of {REWARDS}; did you mean contains?",
    "gold.text=Rome": "gold.text=Rome: there is no gold; choose one, as in gold=NAME",
    "gold=diversity": "gold=diversity: it compares the completions of a rollout, and has no mean "
    "under another distribution; choose another gold (eval/self_bleu_5 measures diversity)",
    "gold=[contains]": "gold=[contains]: takes one of its choices; a sweep over several needs -m "
    "and no brackets",
    "evaluation.pass_k=[0]": "evaluation.pass_k=[0]: must be a list such as [1,4], each a "
    "whole number, at least 1 and at most 1,000,000 or null",
    "~tracking": "tracking: is missing; choose one, as in tracking=NAME",
    "objective=[kl,rl]": "objective=[kl,rl]: takes one of its choices; a sweep over several needs "
    "-m and no brackets",
    # No key at all.
    "=1": "=1: not key=value",
    "+=1": "+=1: not key=value",
    "~": "~: not key=value",
    # Types and ranges, with what is allowed.
    "beta=-1": "beta=-1: must be a number, greater than 0",
    "beta=0": "beta=0: must be a number, greater than 0",
    "beta=high": "beta=high: must be a number, greater than 0",
    "beta=[1,2]": "beta=[1, 2]: must be a number, greater than 0",
    "beta='0.1'": "beta='0.1': must be a number, greater than 0",
    "lora.targets=[a,null]": "lora.targets=[a, null]: must be a list such as [a,b] or null",
    "beta=nan": "beta=nan: must be a finite number",
    "updates=0": "updates=0: must be a whole number, at least 1",
    "updates=2.5": "updates=2.5: must be a whole number, at least 1",
    "updates=null": "updates=null: must be a whole number, at least 1",
    "seed=true": "seed=true: must be a whole number, at least 0",
    "batch_size=1": "batch_size=1: must be a whole number, at least 2 and at most 1,000,000",
    "max_new_tokens=0": (
        "max_new_tokens=0: must be a whole number, at least 1 and at most 1,000,000"
    ),
    "objective.gae_lambda=2": (
        "objective.gae_lambda=2: must be a number, at least 0 and at most 1"
    ),
    "objective.kl_stop=0": "objective.kl_stop=0: must be a number, greater than 0 or null",
    "checkpoint.best=eval/rewrd": "checkpoint.best=eval/rewrd: must be a metric of a policy's "
    "evaluation; did you mean eval/reward?",
    "checkpoint.best=rewrd": "checkpoint.best=rewrd: must be a metric of a policy's evaluation; "
    "did you mean eval/reward?",
    "checkpoint.best=target/reward": "checkpoint.best=target/reward: must be a metric of a "
    "policy's evaluation",
    "checkpoint.best=eval/log_z": "checkpoint.best=eval/log_z: must be a metric of a policy's "
    "evaluation; did you mean eval/log_z_upper?",
    "checkpoint.best=eval/pass_at_4": "checkpoint.best=eval/pass_at_4: is not measured; set "
    "evaluation.pass_k=[4]",
    "evaluation.confidence=95": (
        "evaluation.confidence=95: must be a number, greater than 0 and less than 1"
    ),
    "optim.schedule=liner": (
        "optim.schedule=liner: must be one of linear, constant, cosine; did you mean linear?"
    ),
    "optim.gradient_checkpointing=1": ("optim.gradient_checkpointing=1: must be true or false"),
    "lora.targets=c_attn": "lora.targets=c_attn: must be a list such as [a,b] or null",
    "reward.text=''": "reward.text=: must be a text, not empty",
    "optim=3": "optim=3: is a section; set its keys, as in optim.lr=VALUE",
    "beta=${alpha}": "beta: Interpolation key 'alpha' not found",
    # What is not an override, or not one that Hydra can read.
    "kl": "kl: not key=value; did you mean objective=kl?",
    "foo": "foo: not key=value",
    "reward.text='a": (
        "reward.text='a: cannot be read; put quotes around a value with anything but letters, "
        "digits and .-_/ in it, as in \"reward.text='a, b'\""
    ),
    "beta=0.1,0.3": (
        "beta=0.1,0.3: several values are a sweep, which needs -m; a list is beta=[0.1,0.3]"
    ),
    "name='../x'": "name=../x: must be the name of a folder under runs/",
    "name='/x'": "name=/x: must be the name of a folder under runs/",
    "device=gpu": "device=gpu: must be one of auto, cpu, cuda, cuda:NUMBER, mps",
    "device=cuda:first": "device=cuda:first: must be one of auto, cpu, cuda, cuda:NUMBER, mps",
    "model.name=enumerable": "model.name=enumerable: choose with model=enumerable",
    "optim.lr=fast": "optim.lr=fast: must be a number, at least 0 or null",
    # Missing values and files.
    "reward=python": "reward.function: is missing; give reward.function=FILE.py:NAME",
    "reward=classifier": (
        "reward.path: is missing; give a sequence-classification model: "
        "reward.path=HUB_ID_OR_FOLDER"
    ),
    "prompts=file": (
        "prompts.path: is missing; give a file of texts or JSON lines: prompts.path=FILE"
    ),
    "model.path=./none": "model.path=./none: no such folder",
    # Combinations.
    "target=constraint": (
        "objective=kl with target=constraint: reverse KL to a hard constraint is infinite; "
        "use objective=gdc, or target=posterior with a small beta"
    ),
    "objective.minibatches=200": "objective.minibatches=200: must be at most batch_size=128",
    "evaluation.ess_floor=1000": (
        "evaluation.ess_floor=1000: must be at most evaluation.samples=512"
    ),
    "model=enumerable": (
        "reward.text=Paris: model=enumerable writes letters a to e parted by spaces, at most 5; "
        "choose such as reward.text='a b', or experiment=enumerable"
    ),
}


@pytest.mark.parametrize("override", ONE_PROBLEM)
def test_one_problem_is_one_line(override: str, problems: Problems) -> None:
    assert problems("train", override) == [ONE_PROBLEM[override]]


def test_all_problems_come_together(problems: Problems) -> None:
    arguments = ["lr=1", "beta=-1", "model=gtp2", "kl", "reward=python", "prompts=file"]
    assert problems("train", *arguments, "optim.warmup=-1", "hydra.run.dri=x") == [
        ONE_PROBLEM["kl"],
        ONE_PROBLEM["model=gtp2"],
        ONE_PROBLEM["lr=1e-4"],
        ONE_PROBLEM["hydra.run.dri=x"],
        "beta=-1: must be a number, greater than 0",
        "optim.warmup=-1: must be a whole number, at least 0",
        ONE_PROBLEM["reward=python"],
        ONE_PROBLEM["prompts=file"],
    ]


def test_what_cannot_be_listed_is_told_with_its_size(problems: Problems) -> None:
    sizes = ("model=enumerable", "model.letters=10", "model.length=6")
    line = (
        "model.letters=10 max_new_tokens=6: these are 1,111,111 sequences, and exact "
        "evaluation lists at most 250,000; take fewer letters or a smaller model.length"
    )
    for command in ("train", "eval"):
        assert problems(command, *sizes, "reward=length") == [line]
        assert problems(command, *sizes, "reward=length", "max_new_tokens=5") == []
    assert problems("sample", *sizes, "reward=length") == []


def test_a_wrong_value_is_not_told_twice(problems: Problems) -> None:
    assert problems("train", "batch_size=-4", "objective.minibatches=200") == [
        "batch_size=-4: must be a whole number, at least 2 and at most 1,000,000"
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("name=2024", "reward.text=42"),
        ("optim.max_grad_norm=null", "optim.lr=1e-5", "beta=1"),
        ("objective=rl", "target=constraint"),
        ("objective=gdc", "target=constraint", "target.threshold=1"),
        ("objective.minibatches=4", "batch_size=4", "evaluation.samples=30"),
        ("reward=sum", "+reward.terms.short={weight: 0.5, reward: {name: length}}"),
        ("reward=sum", "~reward.terms.polite", "reward.terms.paris.weight=2"),
        ("hydra.run.dir=here", "+hydra.job.env_set.A=1"),
        ("model.path=openai-community/gpt2", "tracking=wandb", "tracking.tags=[a,b]"),
        ("-m", "beta=0.1,0.3", "objective=glob([g*,k*])", "seed=range(0,2)"),
        ("model=enumerable", "reward.text=' b c'"),
        ("model=enumerable", "reward=length", "objective=rl"),
        ("device=cuda:1", "optim.lr=null", "engine.batch_size=null", "model.dtype=null"),
        ("device=mps", "model.path=someone/model", "model.name=mine"),
    ],
    ids=" ".join,
)
def test_what_is_right_has_no_problem(arguments: tuple[str, ...], problems: Problems) -> None:
    assert problems("train", *arguments) == []


FEATURE = "target.features.b={reward: {name: contains, text: b}, mean: 0.9}"


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("target=moments",), ["target.features: has no feature; add one, as in "]),
        (("target=moments", FEATURE), []),
        (("target=moments", FEATURE, "target.features.b.mean=0.2", "objective=kl"), []),
        (
            ("target=moments", FEATURE, "target.constraint=true", "objective=kl"),
            ["objective=kl with target=moments: reverse KL to a hard constraint is infinite"],
        ),
        (("target=moments", FEATURE, "target.constraint=true", "objective=gdc"), []),
        (
            ("target=moments", FEATURE.replace("0.9", "half")),
            ["target.features.b.mean=half: must be a number"],
        ),
        (
            ("target=moments", FEATURE.replace("contains", "holds")),
            ["target.features.b.reward.name=holds: must be one of "],
        ),
        (("target=forward_kl",), ["target.reward_max: is missing; give the largest reward"]),
        (("target=forward_kl", "target.reward_max=1", "target.kl_prior=2"), []),
        (("target.kl_prior=2",), []),
        (("target.kl_prior=0",), ["target.kl_prior=0: must be a number, greater than 0"]),
        (
            ("target.kl_prior=2", "beta=0.3"),
            ["beta=0.3 with target.kl_prior=2: beta is found from kl_prior; leave one of them out"],
        ),
        (
            ("target.features.b.mean=1",),
            ["target.features.b.mean: not a key of target=posterior, but of target=moments"],
        ),
    ],
)
def test_targets_with_something_to_fit(
    arguments: tuple[str, ...], lines: list[str], problems: Problems
) -> None:
    found = problems("train", *arguments)
    assert len(found) == len(lines)
    assert all(line.startswith(said) for line, said in zip(found, lines, strict=True))


def test_the_device_of_a_reward(problems: Problems) -> None:
    chosen = ("train", "reward=classifier", "reward.path=some/one")
    assert problems(*chosen, "reward.device=cuda:1", "reward.dtype=bfloat16") == []
    assert problems(*chosen, "reward.device=gpu") == [
        "reward.device=gpu: must be cpu, cuda, a GPU's number as in cuda:1, or mps"
    ]


def test_rewards_in_a_sum_are_checked_too(problems: Problems) -> None:
    found = problems(
        "train",
        "reward=sum",
        "+reward.terms.mine={reward: {name: python, function: none.py:f}}",
        "+reward.terms.other={weight: 1, reward: {name: lenght}}",
        "+reward.terms.third.weight=2",
    )
    assert found == [
        "reward.terms.other.reward.name=lenght: must be one of contains, lexicon, length, letters, "
        "classifier, model, diversity, python, sum; did you mean length?",
        "reward.terms.third.reward: is missing; give one with a name",
        "reward.terms.mine.reward.function=none.py:f: no such file none.py",
    ]
    emptied = problems("train", "reward=sum", "~reward.terms.paris", "~reward.terms.polite")
    assert emptied == [
        "reward.terms: has no term; add one, as in "
        "'+reward.terms.short={weight: 1, reward: {name: length}}'"
    ]


def test_files_of_rewards_and_prompts(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("raise SystemExit  # is read, not run\ndef score(): ...\n")
    (tmp_path / "broken.py").write_text("def score(:\n")

    def function(value: str) -> list[str]:
        return problems("train", "reward=python", f"reward.function='{value}'")

    assert function("score.py:score") == []
    assert function("score.py:other") == [
        "reward.function=score.py:other: score.py has no other; it defines score"
    ]
    assert function("score.py") == ["reward.function=score.py: must be FILE.py:NAME"]
    assert function("none.py:f") == ["reward.function=none.py:f: no such file none.py"]
    assert function("broken.py:f")[0].startswith("reward.function=broken.py:f: broken.py is not")
    assert problems("train", "prompts=file", "prompts.path=none.txt") == [
        "prompts.path=none.txt: no such file"
    ]
    (tmp_path / "folder").mkdir()
    assert problems("train", "prompts=file", "prompts.path=folder") == [
        "prompts.path=folder: is a folder; give one of its files"
    ]


def test_arguments_of_a_chat_template_have_any_name(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "chats.json").write_text("[]")
    file = ["prompts=file", "prompts.path=chats.json"]
    for word in ("enable_thinking=false", "a-b=3", "date='26 Jul, 2024'"):
        assert problems("train", *file, f"prompts.chat.{word}") == []
    assert problems("train", "-m", *file, "prompts.chat.enable_thinking=true,false") == []
    (wrong,) = problems("train", *file, "prompts.chat.a=[1]")
    assert wrong.startswith("prompts.chat.a=[1]: must be true or false or")
    (nested,) = problems("train", *file, "prompts.chat.a.b=1")
    assert nested.startswith("prompts.chat.a.b: unknown key")
    (taken,) = problems("train", *file, "prompts.chat.tokenize=true")
    assert "prompts.chat.tokenize: klvi sets it" in taken
    (other,) = problems("train", "prompts.chat.a=1")
    assert other == "prompts.chat.a: not a key of prompts=none, but of prompts=file"
    assert problems("train", "reward=lexicon", "reward.path=none.txt", "reward.words=[a]") == [
        "reward.words and reward.path exclude each other: give one of them",
        "reward.path=none.txt: no such file",
    ]


def test_a_home_folder_is_found(
    problems: Problems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert problems("train", "model.path=~/model") == []
    (tmp_path / "file").touch()
    told = "is a file; give a model's folder or hub id"
    assert problems("train", "model.path=~/file") == [f"model.path={tmp_path}/file: {told}"]
    assert problems("train", "model.path=~/none") == [f"model.path={tmp_path}/none: no such folder"]


@pytest.mark.parametrize(
    ("command", "argument", "line"),
    [
        ("eval", "objective=kl", "objective=kl: klvi eval has no objective"),
        ("eval", "lora.r=4", "lora.r=4: klvi eval takes the LoRA of the run"),
        ("eval", "run=none", "run=none: no such folder"),
        ("sample", "n=0", "n=0: must be a whole number, at least 1"),
        ("export", "model=tiny", "out: is missing; give the folder to write, as in out=DIR"),
        ("resume", "", "run: is missing; give the run's folder, as in run=runs/kl/DIR"),
        ("resume", "run=none", "run=none: no such folder"),
        ("resume", "beta=1", "beta: unknown key"),
        ("resume", "updates=0", "updates=0: must be a whole number, at least 1 or null"),
        (
            "eval",
            "model=enumerable device=mps",
            "model=enumerable with device=mps: exact values need float64; use device=cpu",
        ),
        (
            "train",
            "objective=gdc device=mps",
            "objective=gdc with device=mps: its weights need float64; use device=cpu",
        ),
        (
            "sample",
            "engine=vllm device=cuda:1",
            "engine=vllm with device=cuda:1: vLLM takes the first GPU it sees; set "
            "CUDA_VISIBLE_DEVICES=1 and device=cuda",
        ),
    ],
)
def test_other_commands(command: str, argument: str, line: str, problems: Problems) -> None:
    assert line in problems(command, *argument.split())


def test_a_sweep_is_checked_in_every_combination(problems: Problems) -> None:
    found = problems("train", "-m", "objective=kl,gdc,dpo", "target=posterior,constraint", "lr=1")
    expected = ["lr=1e-4", "target=constraint", "objective=dpo"]
    assert found == [ONE_PROBLEM[override] for override in expected]


def test_a_sweeps_values_are_named_as_the_user_means_them() -> None:
    with composer("train") as hydra:
        overrides, _ = parse_overrides(["reward.text='a: b',c", "seed=1", "beta=0.1,3e-5"], hydra)
        jobs = sweep_of(overrides).varying()
    assert jobs[0] == {"reward.text": "a: b", "beta": "0.1"}
    assert jobs[3] == {"reward.text": "c", "beta": "3e-05"}


def test_a_huge_sweep_is_checked_value_by_value(
    problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_module, "MAX_JOBS", 5)
    found = problems("train", "-m", "seed=-1,2,3", "beta=0.1,-1", "updates=3")
    assert sorted(found) == [
        "beta=-1: must be a number, greater than 0",
        "seed=-1: must be a whole number, at least 0",
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["-m", "beta=interval(0.1,1)"],
            "beta=interval(0.1,1): an interval needs another sweeper than Hydra's own; "
            "list the values",
        ),
        (["-m", "hydra.sweep.subdir=x"], "hydra.sweep.subdir=x: klvi numbers the jobs of a sweep"),
        (["-m", "--cfg", "job"], "--multirun and --cfg exclude each other"),
        (["--resolve"], "--resolve: only with --cfg"),
        (["--config-dir", "none"], "--config-dir=none: no such folder"),
    ],
)
def test_sweeps_and_flags(arguments: list[str], line: str, problems: Problems) -> None:
    assert problems("train", *arguments) == [line]


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str, str], None]:
    def write(name: str, text: str) -> None:
        file = tmp_path / "own" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


def test_the_users_own_configs(problems: Problems, own: Callable[[str, str], None]) -> None:
    header = "# @package _global_\n"
    own("experiment/good.yaml", header + "defaults: [override /reward: length]\nbeta: 0.5\n")
    own("experiment/typo.yaml", header + "beat: 0.5\nupdates: many\noptim: {rate: 1}\n")
    own("experiment/lost.yaml", header + "defaults: [override /model: gtp2]\n")
    own("experiment/broken.yaml", header + "beta: [\n")
    own("experiment/open.yaml", header + "defaults: [override /reward: open]\n")
    own("reward/open.yaml", "name: contains\ntext: ???\n")
    own("reward/mine.yaml", "name: contains\ntext: mine\n")

    def experiment(name: str, *more: str) -> list[str]:
        return problems("train", f"experiment={name}", *more, "--config-dir", "own")

    assert experiment("good") == []
    assert experiment("good", "reward=mine") == []
    assert experiment("typo", "seed=-1") == [
        "seed=-1: must be a whole number, at least 0",
        "updates=many: must be a whole number, at least 1",
        "optim.rate: unknown key; did you mean optim.lr?",
        "beat: unknown key; did you mean beta?",
    ]
    assert experiment("open") == ["reward.text: is missing; give a text, not empty"]
    for name, culprit in (("lost", "Could not find 'model/gtp2'"), ("broken", "broken.yaml")):
        (line,) = experiment(name)
        assert line.startswith(f"experiment={name}: ")
        assert culprit in line
        assert "\n" not in line
    choices = "broken, enumerable, good, lost, nonoffensive, open, paris, typo, women"
    assert experiment("god") == [f"experiment=god: must be one of {choices}; did you mean good?"]
