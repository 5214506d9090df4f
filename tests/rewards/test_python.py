"""A user's function, loaded from a file."""

import pytest

from klvi.contexts import contexts_of
from klvi.errors import UserError
from klvi.rewards import schema
from klvi.rewards.build import build_reward
from klvi.rewards.scoring import score


def build(function):
    return build_reward(schema.PythonReward(name="python", function=function), "cpu")


def test_a_function_gets_texts_and_prompts(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def count(texts, prompts): return [len(t + p) for t, p in zip(texts, prompts)]"
    )
    reward = build(f"{file}:count")
    assert reward.name == "python (mine.py:count)"
    assert score(reward, ["ab", "c"], contexts_of(["d", ""]), update=0).tolist() == [3.0, 1.0]


def test_a_file_named_like_a_library_hides_nothing(tmp_path):
    file = tmp_path / "json.py"
    file.write_text("import json\ndef f(texts, prompts): return [json.loads(t) for t in texts]")
    assert build(f"{file}:f")(["1.5"], contexts_of([""])) == [1.5]


def test_files_of_the_same_name_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "r.py").write_text(f"def f(texts, prompts): return ['{folder}']")
    rewards = [build(f"{tmp_path / folder}/r.py:f") for folder in ("a", "b")]
    assert [reward([""], contexts_of([""])) for reward in rewards] == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("x = 1", "x", "has no function 'x'"),
        ("x = 1", "f", "has no function 'f'"),
        ("def f(): return []", "f", r"r.py:f\(\) takes no texts"),
        ("raise SystemExit(4)\ndef f(texts): return []", "f", r"exits \(sys.exit\(4\)\)"),
        ("import nowhere", "f", "importing .*r.py failed: ModuleNotFoundError: No module"),
        ("def f(:", "f", "importing .*r.py failed: SyntaxError"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, source, name, message):
    (tmp_path / "r.py").write_text(source)
    with pytest.raises(UserError, match=message):
        build(f"{tmp_path}/r.py:{name}")


@pytest.mark.parametrize("function", ["mine.py", "mine.py:", ":f", "mine.py:a b"])
def test_a_malformed_name_is_refused(function):
    with pytest.raises(
        UserError, match=r"reward\.function=.*: give reward\.function=FILE\.py:NAME"
    ):
        build(function)


def test_a_missing_file_is_refused():
    with pytest.raises(UserError, match=r"no such file nowhere\.py"):
        build("nowhere.py:f")
