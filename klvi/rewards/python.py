"""A function of the user's as reward."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from klvi.config import schema
from klvi.contexts import Context
from klvi.errors import UserError
from klvi.rewards.base import Scores

EXAMPLE = "reward.function=FILE.py:NAME with NAME(texts, prompts) -> list of floats"


@dataclass(frozen=True)
class PythonFunction:
    """`function(texts, prompts)`, called with lists of strings."""

    name: str
    function: Callable[[list[str], list[str]], Scores]

    @staticmethod
    def from_config(config: schema.PythonReward) -> PythonFunction:
        """Load `FILE.py:NAME`.

        Raises `UserError` where the file cannot be imported or holds no such function.
        """
        file, colon, attribute = (config.function or "").rpartition(":")
        if not colon or not file or not attribute.isidentifier():
            raise UserError(f"reward.function={config.function or 'null'}: give {EXAMPLE}")
        function = getattr(_import(file), attribute, None)
        if not callable(function):
            raise UserError(f"reward.function: {file} has no function {attribute!r}")
        _check_signature(function, file, attribute)
        return PythonFunction(f"python ({Path(file).name}:{attribute})", function)

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> Scores:
        """Score N completions by the user's function."""
        return self.function(list(texts), [context.prompt for context in contexts])


def _import(file: str) -> ModuleType:
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"reward.function: no such file {file}; give {EXAMPLE}")
    # A name of its own, so that a user's `json.py` hides nothing and two files may share a name.
    name = f"klvi_reward_{sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"reward.function: {file} is not a Python file; give {EXAMPLE}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"reward.function: importing {file} failed: {problem}") from error
    return module


def _check_signature(function: Callable[..., object], file: str, attribute: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions do not tell
        return
    try:
        signature.bind([], [])
    except TypeError as error:
        raise UserError(
            f"reward.function: {file}:{attribute}{signature} must take (texts, prompts)"
        ) from error
