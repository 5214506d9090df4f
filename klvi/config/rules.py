"""What types and ranges cannot say: files that must exist, and combinations that make no sense."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator, Mapping, Set
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from klvi.config.groups import SAMPLES, SAMPLES_PER_PROMPT
from klvi.config.validation import spelled

Values = Mapping[str, Any]

# Of an enumerable prior all are listed; more would take longer than what is measured.
MOST_SEQUENCES, LONGEST = 250_000, 24


def broken_rules(command: str, raw: Mapping[str, Any], wrong: Set[str]) -> Iterator[str]:
    """A line per broken rule; rules about the dotted keys in `wrong` are left out."""
    values = {key: _as_text(key, value) for key, value in flat(raw) if key not in wrong}
    yield from _required(command, values)
    yield from _run_folder(values)
    yield from _model(values)
    yield from _engine(values)
    if command in {"train", "eval", "verify"}:
        yield from _enumeration(values)
    for prefix in _rewards(values):
        yield from _reward(values, prefix)
    yield from _prompts(values)
    yield from _objective(values)
    yield from _sizes(values)


def _as_text(key: str, value: Any) -> Any:
    """Hydra reads a text such as `reward.text=3` as a number."""
    textual = key.rpartition(".")[2] in {"run", "out", "path", "function", "text"}
    return str(value) if textual and value is not None else value


def flat(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested configuration with their dotted keys."""
    for key, value in raw.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _required(command: str, values: Values) -> Iterator[str]:
    if command == "resume" and values.get("run", "") is None:
        yield "run: is missing; give the run's folder, as in run=runs/kl/DIR"
    if command in {"export", "pretrain"} and values.get("out", "") is None:
        yield "out: is missing; give the folder to write, as in out=DIR"


def _run_folder(values: Values) -> Iterator[str]:
    run = values.get("run")
    if run is not None:
        problem = run_folder_problem(Path(run).expanduser())
        if problem:
            yield f"run={run}: {problem}"


def run_folder_problem(folder: Path) -> str | None:
    """Why `folder` is not a run's; None where it is one."""
    if not folder.is_dir():
        return "no such folder"
    if (folder / "config.yaml").is_file():
        return None
    jobs = sorted(path.parent.name for path in folder.glob("*/config.yaml"))
    if jobs:
        return f"not a run but a folder of runs: {', '.join(jobs)}"
    return "not the folder of a run: it has no config.yaml"


def _model(values: Values) -> Iterator[str]:
    yield from _local_model("model.path", values.get("model.path"))


def _engine(values: Values) -> Iterator[str]:
    if values.get("rollout.engine") == "vllm" and find_spec("vllm") is None:
        yield (
            "rollout.engine=vllm: vLLM is not installed; pip install 'klvi[vllm]', or use "
            "rollout.engine=torch"
        )
    if values.get("rollout.engine") == "graph" and values.get("device") == "cpu":
        yield "rollout.engine=graph with device=cpu: it needs CUDA; use rollout.engine=torch"


def _enumeration(values: Values) -> Iterator[str]:
    if values.get("model.name") != "enumerable":
        return
    letters, length = values.get("model.letters"), values.get("rollout.max_new_tokens")
    # What is longer does not fit the model's context either, which says so itself.
    if letters is None or length is None or length > LONGEST:
        return
    count = sum(letters**k for k in range(length + 1))
    if count > MOST_SEQUENCES:
        yield (
            f"model.letters={letters} rollout.max_new_tokens={length}: these are {count:,} "
            f"sequences, and exact evaluation lists at most {MOST_SEQUENCES:,}; take fewer letters "
            "or a smaller model.length"
        )


def _local_model(key: str, path: str | None) -> Iterator[str]:
    if (
        path is not None
        and path.startswith((".", "/", "~"))
        and not Path(path).expanduser().is_dir()
    ):
        yield f"{key}={path}: no such folder"


def _rewards(values: Values) -> list[str]:
    """The prefix of every reward, those in a sum included."""
    return [key.removesuffix("name") for key in values if re.search(r"(^|\.)reward\.name$", key)]


def _reward(values: Values, prefix: str) -> Iterator[str]:
    match values.get(f"{prefix}name"):
        case "python":
            yield from _reward_function(f"{prefix}function", values.get(f"{prefix}function", ""))
        case "classifier":
            yield from _reward_classifier(f"{prefix}path", values.get(f"{prefix}path", ""))
        case "lexicon":
            yield from _reward_lexicon(values, prefix)
        case "contains" if values.get("model.name") == "enumerable":
            yield from _reward_enumerable(values, prefix)
        case "sum" if not any(key.startswith(f"{prefix}terms.") for key in values):
            yield f"{prefix}terms: has no term; add one, as in " + (
                f"'+{prefix}terms.short={{weight: 1, reward: {{name: length}}}}'"
            )


def _reward_function(key: str, function: str | None) -> Iterator[str]:
    if function is None:
        yield f"{key}: is missing; give {key}=FILE.py:NAME"
        return
    file, colon, name = function.rpartition(":")
    if not function:
        return
    if not colon or not file or not name.isidentifier():
        yield f"{key}={function}: must be FILE.py:NAME"
    elif not Path(file).expanduser().is_file():
        yield f"{key}={function}: no such file {file}"
    else:
        yield from _defined(key, function, Path(file).expanduser(), name)


def _defined(key: str, function: str, file: Path, name: str) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        yield f"{key}={function}: {file} is not Python: {error}"
        return
    names = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    others = [node for node in ast.walk(tree) if isinstance(node, ast.Name | ast.alias)]
    bound = {node.id if isinstance(node, ast.Name) else node.asname or node.name for node in others}
    if name not in names | bound and "*" not in bound:
        defined = f"it defines {', '.join(sorted(names))}" if names else "it defines no function"
        yield f"{key}={function}: {file} has no {name}; {defined}"


def _reward_classifier(key: str, path: str | None) -> Iterator[str]:
    if path is None:
        yield f"{key}: is missing; give a sequence-classification model: {key}=HUB_ID_OR_FOLDER"
    else:
        yield from _local_model(key, path)


def _reward_lexicon(values: Values, prefix: str) -> Iterator[str]:
    path = values.get(f"{prefix}path")
    if path is not None and values.get(f"{prefix}words") is not None:
        yield f"{prefix}words and {prefix}path exclude each other: give one of them"
    if path is not None and not Path(path).expanduser().is_file():
        yield f"{prefix}path={path}: no such file"


def _reward_enumerable(values: Values, prefix: str) -> Iterator[str]:
    text, count, length = (
        values.get(key) for key in (f"{prefix}text", "model.letters", "model.length")
    )
    if not text or count is None or length is None:
        return
    letters = string.ascii_lowercase[:count]
    exact = values.get(f"{prefix}case_sensitive", True)
    found = re.fullmatch(f" ?[{letters}]( [{letters}])*? ?", text if exact else text.lower())
    if not found or len(text.split()) > length:
        yield (
            f"{prefix}text={text}: model=enumerable writes letters a to {letters[-1]} parted by "
            f"spaces, at most {length}; choose such as {prefix}text='a b', or experiment=enumerable"
        )


def _prompts(values: Values) -> Iterator[str]:
    if values.get("prompts.name") != "file":
        return
    path = values.get("prompts.path", "")
    if path is None:
        yield "prompts.path: is missing; give a file of texts or JSON lines"
    elif path and not Path(path).expanduser().is_file():
        yield f"prompts.path={path}: no such file"


def _objective(values: Values) -> Iterator[str]:
    if values.get("objective.name") == "kl" and values.get("target.name") == "constraint":
        yield (
            "objective=kl with target=constraint: reverse KL to a hard constraint is infinite; "
            "use objective=gdc, or target=posterior with a small beta"
        )


def _sizes(values: Values) -> Iterator[str]:
    groups = values.get("prompts.name", "none") != "none"
    samples = ("evaluation.samples", None if groups else SAMPLES)
    if groups and values.get("evaluation.samples") is None:
        samples = ("evaluation.samples_per_prompt", SAMPLES_PER_PROMPT)
    for small, large, default in (
        ("objective.minibatches", "batch_size", None),
        ("rollout.samples_per_prompt", "batch_size", None),
        ("evaluation.ess_floor", *samples),
    ):
        low, high = values.get(small), values.get(large)
        if large in values and high is None:
            high = default
        if low is not None and high is not None and low > high:
            yield f"{small}={spelled(low)}: must be at most {large}={spelled(high)}"
    totals = ("evaluation.samples", "evaluation.prompts", "evaluation.samples_per_prompt")
    given = [f"{key}={spelled(values[key])}" for key in totals if values.get(key) is not None]
    if groups and len(given) == len(totals):
        yield f"{' '.join(given)}: any two of them give the third; leave one null"
