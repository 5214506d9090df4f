"""What another run names is not used unless it is trusted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from support import sign, train_config

from klvi.config.command_line import parse
from klvi.config.problems import check
from klvi.config.trust import untrusted
from klvi.errors import UserError
from klvi.runs.stored import write_config


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A run that names all that can be named, made by nobody here."""
    for name in ("r.py", "words", "prompts"):
        (tmp_path / name).write_text("def f(texts): return [0.0] * len(texts)\n")
    (tmp_path / "model").mkdir()
    own = {"name": "python", "function": f"{tmp_path}/r.py:f"}
    listed = {"name": "lexicon", "path": f"{tmp_path}/words"}
    judge = {"name": "classifier", "path": "a/hub-id", "trust_remote_code": True}
    inner = {"name": "sum", "terms": {"c": {"reward": own}, "d": {"reward": judge}}}
    config = train_config(
        model={"name": "m", "path": f"{tmp_path}/model", "trust_remote_code": True},
        reward={"name": "sum", "terms": {"a": {"reward": listed}, "b.c": {"reward": inner}}},
        gold=listed,
        prompts={"name": "file", "path": f"{tmp_path}/prompts"},
        tracking={"name": "wandb", "entity": "somebody"},
    )
    folder = tmp_path / "foreign"
    folder.mkdir()
    write_config(config.model_dump(mode="json"), folder)
    return folder


GOLD = "gold.path="
MODEL = ["model.path=", "model.trust_remote_code=true"]


REWARD = [
    *("reward.terms.a.reward.path=", "reward.terms.b.c.reward.terms.c.reward.function="),
    "reward.terms.b.c.reward.terms.d.reward.trust_remote_code=true",
]


def problems(command: str, *words: str) -> tuple[str, ...]:
    try:
        check(command, parse(words))
    except UserError as error:
        return error.problems
    return ()


@pytest.mark.parametrize(
    ("command", "words", "named"),
    [
        ("eval", [], [*MODEL, *REWARD, "prompts.path=", GOLD]),
        ("sample", [], [*MODEL, *REWARD, "prompts.path=", GOLD]),
        ("sample", ["reward=length", "prompts=none"], [*MODEL, GOLD]),
        ("eval", ["reward=length", "prompts.path=words", "gold=null"], MODEL),
        ("export", ["out=o"], MODEL),
        ("export", ["out=o", "model.trust_remote_code=false"], ["model.path="]),
        ("resume", [], [*MODEL, *REWARD, "prompts.path=", GOLD, "tracking=wandb"]),
        (
            "eval",
            ["reward.terms.a.reward.path=words"],
            [*MODEL, *REWARD[1:], "prompts.path=", GOLD],
        ),
    ],
)
def test_what_another_run_names_is_not_used(
    command: str, words: list[str], named: list[str], foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(foreign.parent)
    run = f"run={foreign}"
    lines = problems(command, run, *words)
    assert len(lines) == len(named)
    for line, key in zip(lines, named, strict=True):
        assert line.startswith(f"{run}: {key}")
        assert line.endswith("config.yaml is now; read it, then add trust=true")
    assert problems(command, run, *words, "trust=true") == ()
    sign(foreign, foreign.parent / "r.py")
    assert problems(command, run, *words) == ()


def test_a_value_that_the_user_repeats_is_the_users(foreign: Path) -> None:
    path = foreign.parent / "model"
    words = [f"run={foreign}", "out=o", f"model.path={path}", "model.trust_remote_code=true"]
    assert problems("export", *words) == ()


def test_code_of_theirs_is_theirs_though_the_user_lets_code_run(tmp_path: Path) -> None:
    model = {"name": "m", "path": "a/hub-id", "revision": "r1"}
    write_config(train_config(model=model).model_dump(mode="json"), tmp_path)
    words = [f"run={tmp_path}", "out=o", "model.trust_remote_code=true"]
    for chosen in ([], ["model.path=my/own"], ["model.revision=r2"]):
        (line,) = problems("export", *words, *chosen)
        assert line.startswith(f"run={tmp_path}: model.trust_remote_code=true is leave to run")
    assert problems("export", *words, "model.path=my/own", "model.revision=r2") == ()


def test_where_results_go_is_theirs_though_the_user_tracks() -> None:
    kept = {"tracking": {"name": "wandb", "entity": "somebody", "tags": []}}
    parser = OverridesParser.create()
    chosen = parser.parse_overrides(["tracking.name=wandb", "tracking.tags=[]"])
    (line,) = untrusted("theirs", kept, kept, chosen)
    assert line.startswith("run=theirs: tracking=wandb is tracking that this run names")
    own = parser.parse_overrides(["tracking.entity=me"])
    config = {"tracking": {**kept["tracking"], "entity": "me"}}
    assert untrusted("theirs", kept, config, [*chosen, *own]) == []


@pytest.fixture
def signed(foreign: Path) -> Path:
    """The user's own run, with a helper of its reward and the code of its model."""
    folder = foreign.parent
    (folder / "r.py").write_text(f"import helper\n{(folder / 'r.py').read_text()}")
    (folder / "helper.py").write_text("")
    (folder / "model" / "modeling.py").write_text("")
    sign(foreign, folder / "r.py", folder / "helper.py", folder / "model" / "modeling.py")
    return foreign


FUNCTION, LEAVE = "reward.terms.b.c.reward.terms.c.reward.function=", "model.trust_remote_code=true"


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("r.py", FUNCTION),
        pytest.param("helper.py", FUNCTION, marks=pytest.mark.slow),
        ("model/modeling.py", LEAVE),
        ("model/new.py", LEAVE),
        pytest.param("model/config.json", LEAVE, marks=pytest.mark.slow),
    ],
)
def test_code_that_changed_is_told(file: str, key: str, signed: Path) -> None:
    assert problems("sample", f"run={signed}") == ()
    code = signed.parent / file
    code.write_text((code.read_text() if code.exists() else "") + "# another\n")
    assert problems("resume", f"run={signed}") == ()  # which tells all that has changed itself
    (line,) = problems("sample", f"run={signed}")
    assert line.startswith(f"run={signed}: {key}")
    assert line.endswith(
        f"of this run that has changed since you made it here ({code}); read it, then add "
        "trust=true"
    )
    assert (problems("export", f"run={signed}", "out=o") == ()) == (key == FUNCTION)
    assert problems("sample", f"run={signed}", "trust=true") == ()
