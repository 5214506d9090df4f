"""A user's file runs as if it were alone, and leaves klvi's process as it was."""

import gc
import json
import os
import random
import signal
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch

from klvi import interruption
from klvi.contexts import contexts_of, unprompted
from klvi.errors import RunError, UserError
from klvi.rewards import schema
from klvi.rewards.build import build_reward
from klvi.rewards.scoring import score


def write(folder, name="score.py", source="", **kinds):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(source), **kinds)
    return file


def build(file, name="score"):
    return build_reward(schema.PythonReward(name="python", function=f"{file}:{name}"), "cpu")


def scores(reward, texts=("a", "b")):
    return score(reward, list(texts), contexts_of([""] * len(texts)), update=0).tolist()


def test_neighbours_are_found_at_import_and_at_call_and_kept_apart(tmp_path):
    source = """
        import first
        from package import inner
        def score(texts):
            import second
            return [first.X + second.X + inner.X] * len(texts)
        """
    rewards = []
    for value in (1, 2):
        folder = tmp_path / str(value)
        for neighbour in ("first.py", "second.py", "package/inner.py"):
            write(folder, neighbour, f"X = {value}")
        write(folder, "package/__init__.py", "from . import inner")
        rewards.append(build(write(folder, source=source)))
    before = list(sys.path)
    assert [scores(reward)[0] for reward in rewards * 2] == [3, 6, 3, 6]
    assert sys.path == before
    assert not {"first", "second", "package", "score"} & set(sys.modules)


def test_neighbours_that_only_running_tells_are_named(tmp_path, capfd):
    for neighbour in ("first.py", "second.py", "third.py", "package/__init__.py"):
        write(tmp_path, neighbour)
    source = """
        import first
        from importlib import import_module
        def score(texts):
            import second, package
            import_module("thi" + "rd")
            return [0.0] * len(texts)
        """
    reward = build(write(tmp_path, source=source))
    scores(reward)
    scores(reward)
    told = f"imports {tmp_path / 'third.py'} by a computed name: a change in it goes unnoticed"
    assert capfd.readouterr().err == f"klvi: warning: reward python (score.py:score) {told}\n"


def test_a_neighbour_hides_no_library_from_klvi(tmp_path):
    write(tmp_path, "json.py", "raise RuntimeError")
    write(tmp_path, "types.py", "raise RuntimeError")
    (tmp_path / "wandb").mkdir()
    source = "import json, types\ndef score(texts): return [json.loads('1.5')] * len(texts)"
    assert scores(build(write(tmp_path, source=source))) == [1.5, 1.5]
    assert sys.modules["json"] is json
    assert build(tmp_path / "score.py").function.__module__ == "score"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8-sig"])
def test_a_file_in_another_encoding(tmp_path, encoding):
    declared = "# -*- coding: latin-1 -*-\n" if encoding == "latin-1" else ""
    source = declared + "from __future__ import annotations\n\n\nWORD = 'café'\n"
    source += "def score(texts): return [float(WORD in text) for text in texts]\n"
    file = tmp_path / "score.py"
    file.write_bytes(source.encode(encoding))
    assert scores(build(file), ["café", "cafe"]) == [1, 0]


def test_dataclasses_and_classes_that_are_called(tmp_path):
    source = """
        from __future__ import annotations
        import dataclasses, pickle
        @dataclasses.dataclass
        class Score:
            weight: float = 2.0
            def __call__(self, texts: list[str]) -> list[float]:
                return [pickle.loads(pickle.dumps(self)).weight] * len(texts)
        score = Score()
        """
    file = write(tmp_path, source=source)
    assert scores(build(file)) == [2, 2]
    assert scores(build(file, "Score")) == [2, 2]


def test_work_for_other_processes(tmp_path):
    """Functions are pickled by the file's name, which a new process finds beside the others."""
    source = """
        import multiprocessing
        def one(text):
            return len(text)
        def score(texts):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                return pool.map(one, texts)
        """
    assert scores(build(write(tmp_path, source=source)), ["ab", "c"]) == [2, 1]


STATES = {
    "torch.set_default_dtype(torch.float64)": ("default dtype", torch.get_default_dtype),
    "torch.set_default_device('meta')": ("default device", torch.get_default_device),
    "torch.set_num_threads(torch.get_num_threads() + 1)": ("threads", torch.get_num_threads),
    "torch.set_grad_enabled(False)": ("gradients", torch.is_grad_enabled),
    "globals().update(held=torch.inference_mode()); held.__enter__()": (
        "inference mode",
        torch.is_inference_mode_enabled,
    ),
    "torch.use_deterministic_algorithms(True)": (
        "use_deterministic_algorithms",
        torch.are_deterministic_algorithms_enabled,
    ),
    "torch.set_float32_matmul_precision('high')": (
        "set_float32_matmul_precision",
        torch.get_float32_matmul_precision,
    ),
    "torch.manual_seed(5)": ("manual_seed", torch.initial_seed),
    "os.chdir('/')": ("os.chdir", os.getcwd),
    "signal.signal(signal.SIGINT, signal.SIG_IGN)": (
        "SIGINT",
        lambda: signal.getsignal(signal.SIGINT),
    ),
    "signal.signal(signal.SIGALRM, signal.SIG_IGN)": (
        "SIGALRM",
        lambda: signal.getsignal(signal.SIGALRM),
    ),
    "signal.setitimer(signal.ITIMER_REAL, 1000)": (
        "signal.setitimer",
        lambda: signal.getitimer(signal.ITIMER_REAL),
    ),
    "np.seterr(all='raise')": ("np.seterr", np.geterr),
    "gc.disable()": ("gc.disable", lambda: __import__("gc").isenabled()),
    "warnings.simplefilter('ignore')": (None, lambda: list(warnings.filters)),
    "sys.argv.append('x')": (None, lambda: list(sys.argv)),
    "torch.rand(3)": (None, lambda: torch.get_rng_state().tolist()),
    "random.random()": (None, random.getstate),
    "np.random.rand()": (None, lambda: str(np.random.get_state())),
}
IMPORTS = "import gc, os, random, signal, sys, warnings\nimport numpy as np\nimport torch\n"


@pytest.mark.parametrize("change", STATES)
@pytest.mark.parametrize("when", ["import", "call"])
def test_what_it_does_to_the_process_is_undone_and_named_once(tmp_path, capfd, change, when):
    named, state = STATES[change]
    before = state()
    at_import, at_call = (change, "pass") if when == "import" else ("pass", change)
    source = (
        f"{IMPORTS}{at_import}\ndef score(texts):\n    {at_call}\n    return [1] * len(texts)\n"
    )
    reward = build(write(tmp_path, source=source))
    for _ in range(3):
        assert scores(reward) == [1, 1]
    assert state() == before
    lines = capfd.readouterr().err.splitlines()
    if named is None:
        assert lines == []
    else:
        assert sum(named in line and "score.py:score" in line for line in lines) == 1
    # A guard of torch's sets gradients when it is collected, which may be in another test.
    del reward
    gc.collect()


def test_it_finds_again_what_it_has_set_for_itself(tmp_path):
    source = """
        import os, torch
        torch.set_default_dtype(torch.float64)
        os.chdir("/")
        torch.manual_seed(0)
        def score(texts):
            size = torch.get_default_dtype().itemsize
            return [size + (os.getcwd() == "/") + torch.rand(()).item()]
        """
    reward = build(write(tmp_path, source=source))
    expected = torch.rand(2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [scores(reward, ["a"])[0] - 9 for _ in range(2)]
    assert found == pytest.approx(expected.tolist())


def test_undone_even_where_it_raises(tmp_path):
    source = (
        "import torch\ndef score(texts):\n    torch.set_default_dtype(torch.float64)\n    1 / 0"
    )
    reward = build(write(tmp_path, source=source))
    with pytest.raises(UserError, match="ZeroDivisionError"):
        scores(reward)
    assert torch.get_default_dtype() is torch.float32


def test_a_visit_is_short(tmp_path):
    reward = build(write(tmp_path, source="def score(texts): return [1.0]"))
    reward(["a"], unprompted(1))
    calls = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, argument: calls.append(event))
    try:
        reward(["a"], unprompted(1))
    finally:
        sys.setprofile(before)
    assert calls.count("call") + calls.count("c_call") < 1000


def test_prints_go_to_the_standard_error_and_are_named(tmp_path, capfd):
    source = "print('one')\ndef score(texts):\n    print('two')\n    return [1.0] * len(texts)"
    reward = build(write(tmp_path, source=source))
    scores(reward)
    scores(reward)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("two\n") == 2
    assert err.count("prints to the standard output") == 1


def test_input_is_never_waited_for(tmp_path, capfd):
    reward = build(write(tmp_path, source="def score(texts): return [float(input('? '))]"))
    with pytest.raises(UserError, match=r"score.py:score.* asks for input"):
        scores(reward, ["a"])
    with pytest.raises(UserError, match=r"importing .* asks for input"):
        build(write(tmp_path, "other.py", "import sys\nsys.stdin.read()\ndef score(texts): 0"))
    capfd.readouterr()


def test_the_command_line_is_klvis(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["klvi", "reward=python"])
    source = """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("words", nargs={nargs!r})
        words = parser.parse_args().words
        def score(texts): return [float(len(words))] * len(texts)
        """
    reward = build(write(tmp_path, source=source.format(nargs="*")))
    assert scores(reward) == [0, 0]
    assert capfd.readouterr().err.count("reads the command line (sys.argv)") == 1
    with pytest.raises(UserError, match=r"parses a command line .*required: words.*__main__"):
        build(write(tmp_path, "other.py", source.format(nargs=1)))
    assert "usage" not in capfd.readouterr().err


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "GeneratorExit", "SystemExit(2)"])
@pytest.mark.parametrize("place", ["at import", "in its constructor"])
def test_what_would_leave_the_process_ends_the_run(tmp_path, error, place):
    inside = f"def __init__(self): raise {error}\n    def __call__(self, texts): return 0"
    source = f"raise {error}" if place == "at import" else f"class score:\n    {inside}"
    with interruption.watched(), pytest.raises(RunError, match=r"importing .*score\.py ") as raised:
        build(write(tmp_path, source=source))
    assert raised.value.exit_code == 1


@pytest.mark.usefixtures("default_signals")
def test_a_signal_at_import_is_one(tmp_path):
    source = "import signal\ntry: signal.raise_signal(15)\nexcept BaseException: pass"
    with interruption.watched(), pytest.raises(interruption.Interruption):
        build(write(tmp_path, source=f"{source}\ndef score(texts): 0"))


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_it_can_be_ended_whatever_handlers_it_wants(tmp_path, number):
    source = f"""
        import signal
        signal.signal({int(number)}, signal.SIG_IGN)
        def score(texts):
            signal.signal({int(number)}, signal.SIG_IGN)
            signal.raise_signal({int(number)})
            raise AssertionError
        """
    with interruption.watched():
        reward = build(write(tmp_path, source=source))
        with pytest.raises(interruption.Interruption):
            scores(reward)


def test_leaving_the_process_at_once_is_an_exit_as_any_other_but_in_a_child(tmp_path):
    source = """
        import os
        def leaves(texts):
            os._exit(0)
        def forks(texts):
            child = os.fork()
            if child == 0:
                os._exit(7)
            return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])] * len(texts)
        """
    file = write(tmp_path, source=source)
    with pytest.raises(RunError, match=r"leaves.* exits: SystemExit"):
        scores(build(file, "leaves"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        assert scores(build(file, "forks")) == [7.0, 7.0]


def test_random_rewards_are_those_of_the_update_whatever_came_before(tmp_path):
    source = """
        import random
        import numpy as np, torch
        def score(texts):
            return [random.random() + np.random.rand() + torch.rand(1).item() for _ in texts]
        """
    file = write(tmp_path, source=source)

    def at(reward, *updates):
        contexts = contexts_of(["", ""])
        return [score(reward, ["a", "b"], contexts, update=u).tolist() for u in updates]

    whole, resumed = at(build(file), 0, 1, 2, 3), at(build(file), 2, 3)
    assert whole[2:] == resumed
    assert whole[2] != whole[3]
