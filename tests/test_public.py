"""`import klvi` is cheap, tells what there is, and leaves the process as it was."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import klvi
from klvi.registry import name_of
from klvi.runs.schema import ProblemConfig
from klvi.samplers.ancestral import Ancestral
from klvi.schema import Choice

ROOMS = ("objectives", "rewards", "samplers", "targets")
PUBLIC = {*ROOMS, "Evaluation", "UserError", "evaluate", "load_prior", "train", "__version__"}


def described(room: str) -> list[type[Choice]]:
    """The sections of a room's groups."""
    schema = importlib.import_module(f"klvi.{room}.schema")
    groups = [kind for kind in vars(schema).values() if Choice in getattr(kind, "__bases__", ())]
    return [section for group in groups for section in group.members()]


def declared(file: str) -> set[str]:
    """The names that type checkers see in an `__init__`."""
    tree = ast.parse((Path(klvi.__file__).parent / file).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        alias.asname or ""
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_klvi_tells_what_there_is() -> None:
    assert set(dir(klvi)) == PUBLIC
    assert declared("__init__.py") == PUBLIC - {"__version__"}
    for name in PUBLIC:
        assert getattr(klvi, name) is not None
    with pytest.raises(
        AttributeError, match=r"^module 'klvi' has no attribute 'trian'; did you mean train\?$"
    ):
        _ = klvi.trian


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_the_class_of_every_section(room: str) -> None:
    classes = {section.builds.partition(":")[2].partition(".")[0] for section in described(room)}
    package = getattr(klvi, room)
    assert classes <= set(dir(package))
    for name in classes:
        assert inspect.isclass(getattr(package, name))


def test_a_wrong_spelling_has_its_nearest() -> None:
    with pytest.raises(AttributeError, match=r"'Postrior'; did you mean Posterior\?$"):
        _ = klvi.targets.Postrior


@pytest.mark.parametrize("section", [s for room in ROOMS for s in described(room)], ids=name_of)
def test_constructors_and_sections_have_the_same_defaults(section: type[Choice]) -> None:
    module, _, path = section.builds.partition(":")
    made = importlib.import_module(module)
    for name in path.split("."):
        made = getattr(made, name)
    known = {**ProblemConfig.model_fields, **section.model_fields}
    for name, parameter in inspect.signature(made).parameters.items():
        stated = known[name].default if name in known else None
        if parameter.default not in (inspect.Parameter.empty, None) and name != "name":
            assert name not in known or parameter.default == stated


def test_samplers_need_nothing_that_a_notebook_has_not() -> None:
    for section in described("samplers"):
        name = section.builds.partition(":")[2].partition(".")[0]
        made = getattr(klvi.samplers, name)()
        assert getattr(made, "ancestral", made) == Ancestral()


STATE = """
import gc, importlib, json, locale, logging, os, random, signal, sys, threading, typing, warnings

def state():
    found = {
        "environment": dict(os.environ), "folder": os.getcwd(), "path": list(sys.path),
        "gc": [gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()],
        "signals": [str(signal.getsignal(n)) for n in signal.valid_signals()],
        "filters": list(map(str, warnings.filters)), "show": str(warnings.showwarning),
        "log": [logging.root.level, list(map(str, logging.root.handlers))],
        "locale": locale.setlocale(locale.LC_ALL), "random": str(random.getstate()),
        "hooks": [str(sys.excepthook), str(threading.excepthook), str(sys.unraisablehook)],
        "streams": [str(sys.stdout), str(sys.stderr)], "recursion": sys.getrecursionlimit(),
        "threads": [t.name for t in threading.enumerate()],
    }
    if "torch" in sys.modules:
        import numpy, torch, transformers
        found["torch"] = [
            torch.get_num_threads(), torch.get_num_interop_threads(),
            str(torch.get_default_dtype()), str(torch.get_default_device()),
            torch.is_grad_enabled(), torch.random.get_rng_state(),
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        ]
        found["numpy"] = [str(numpy.random.get_state()), numpy.geterr()]
        found["transformers"] = [
            transformers.utils.logging.get_verbosity(),
            transformers.utils.logging.is_progress_bar_enabled(),
        ]
    return json.dumps(found, default=str, sort_keys=True)

def compare(before, after):
    before, after = json.loads(before), json.loads(after)
    print(json.dumps({k: [before[k], after[k]] for k in before if before[k] != after[k]}))
"""
IMPORTED = """
before, modules = state(), set(sys.modules)
import klvi
compare(before, state())
print(json.dumps(sorted(m for m in set(sys.modules) - modules if not m.startswith("klvi"))))
"""
USED = """
import numpy, torch, transformers, peft
from transformers import AutoModelForCausalLM, AutoTokenizer  # transformers' own doing is its own
before = state()
import klvi
prior = klvi.load_prior("enumerable", letters=3, length=3)
target = klvi.targets.Posterior(lambda texts: [float("b" in t) for t in texts], beta=0.3)
policy = klvi.train(prior, target, klvi.objectives.KL(), updates=1, batch_size=16)
klvi.evaluate(policy, target, samples=64, ess_floor=2)
compare(before, state())
"""


def told(code: str, folder: Path) -> list[object]:
    """What a process says, of which nothing goes to the standard error."""
    process = [sys.executable, "-c", f"{STATE}{code}"]
    result = subprocess.run(process, capture_output=True, text=True, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert list(folder.iterdir()) == []
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_import_is_cheap_and_changes_nothing(tmp_path: Path) -> None:
    changed, modules = told(IMPORTED, tmp_path)
    assert changed == {}
    assert modules == []


@pytest.mark.slow
def test_what_is_computed_changes_nothing_of_the_process(tmp_path: Path) -> None:
    assert told(USED, tmp_path) == [{}]


def test_a_star_imports_what_dir_tells() -> None:
    for package in (klvi, *(getattr(klvi, room) for room in ROOMS)):
        names: dict[str, object] = {}
        exec(f"from {package.__name__} import *", names)
        assert set(names) - {"__builtins__"} == set(dir(package))
