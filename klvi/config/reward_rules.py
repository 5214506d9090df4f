"""What types and ranges cannot say of rewards: files that must exist, texts that can occur."""

from __future__ import annotations

import ast
import re
import string
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Values = Mapping[str, Any]


def broken_reward_rules(values: Values) -> Iterator[str]:
    """A line per broken rule about any reward, those in a sum included."""
    for prefix in _rewards(values):
        yield from _reward(values, prefix)


def missing_folder(key: str, path: str | None) -> Iterator[str]:
    """A line where `path` can only be a folder on this machine, and is none."""
    if path is None:
        return
    folder = Path(path).expanduser()
    if folder.is_file():
        yield f"{key}={path}: is a file; give a model's folder or hub id"
    elif path.startswith((".", "/", "~")) and not folder.is_dir():
        yield f"{key}={path}: no such folder"


def _rewards(values: Values) -> list[str]:
    """The prefix of every reward, gold and those in a sum included."""
    named = (key for key in values if re.search(r"(^gold|(^|\.)reward)\.name$", key))
    return [key.removesuffix("name") for key in named]


def _reward(values: Values, prefix: str) -> Iterator[str]:
    match values.get(f"{prefix}name"):
        case "python":
            yield from _reward_function(f"{prefix}function", values.get(f"{prefix}function", ""))
        case "classifier" | "model":
            yield from missing_folder(f"{prefix}path", values.get(f"{prefix}path"))
            yield from _reward_device(f"{prefix}device", values.get(f"{prefix}device"))
        case "diversity" if prefix == "gold.":
            yield (
                "gold=diversity: it compares the completions of a rollout, and has no mean under "
                "another distribution; choose another gold (eval/self_bleu_5 measures diversity)"
            )
        case "lexicon":
            yield from _reward_lexicon(values, prefix)
        case "contains" if values.get("model.name") == "enumerable":
            yield from _reward_enumerable(values, prefix)
        case "sum" if not any(key.startswith(f"{prefix}terms.") for key in values):
            yield f"{prefix}terms: has no term; add one, as in " + (
                f"'+{prefix}terms.short={{weight: 1, reward: {{name: length}}}}'"
            )


def _reward_function(key: str, function: str) -> Iterator[str]:
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(file.read_bytes())  # in whatever encoding the file declares
    except (SyntaxError, ValueError) as error:
        yield f"{key}={function}: {file} is not Python: {error}"
        return
    names = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    others = [node for node in ast.walk(tree) if isinstance(node, ast.Name | ast.alias)]
    bound = {node.id if isinstance(node, ast.Name) else node.asname or node.name for node in others}
    if name not in names | bound and "*" not in bound:
        defined = f"it defines {', '.join(sorted(names))}" if names else "it defines no function"
        yield f"{key}={function}: {file} has no {name}; {defined}"


def _reward_device(key: str, device: str | None) -> Iterator[str]:
    if device is not None and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        yield f"{key}={device}: must be cpu, cuda, a GPU's number as in cuda:1, or mps"


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
