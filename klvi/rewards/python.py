"""A function of the user's as reward."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from klvi import interruption
from klvi.contexts import Context
from klvi.errors import RunError, UserError
from klvi.rewards.base import Reward, Scores
from klvi.rewards.signature import Signature
from klvi.rewards.user_file import CommandLineError, UserFile, warn_once

EXAMPLE = "reward.function=FILE.py:NAME with NAME(texts, prompts) -> list of floats"
MAIN = "put what is for the command line under `if __name__ == '__main__':`"
MESSAGES = "messages"


@dataclass
class PythonFunction:
    """A user's function of lists of texts, prompts and columns: see `Signature`.

    Attributes:
        name: what error messages call it.
        function: what is called; its awaitable, if it returns one, is run to its end.
        file: the file that it came from; None for a function made in this process.
        columns: names of the prompts' columns, once `check_columns` has seen them.
    """

    name: str
    function: Callable[..., Any]
    file: UserFile | None = None
    columns: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        shown = self.name if self.file is None else self.name[len("python (") : -1]
        self._signature = Signature.of(self.function, shown)

    @staticmethod
    def load(function: str) -> PythonFunction:
        """Load `FILE.py:NAME`.

        Raises `UserError` where the file cannot be imported or holds no such function, and
        `RunError` where it would leave the process.
        """
        path, colon, attribute = function.rpartition(":")
        if not colon or not path or not attribute.isidentifier():
            raise UserError(f"reward.function={function}: give {EXAMPLE}")
        if not Path(path).expanduser().is_file():
            raise UserError(f"reward.function: no such file {path}; give {EXAMPLE}")
        name = f"python ({Path(path).name}:{attribute})"
        file = UserFile(Path(path).expanduser().resolve(), warn_once(f"reward {name}"))
        with _importing(path):
            found = getattr(file.load(), attribute, None)
            if inspect.isclass(found):
                with file.visit():
                    found = found()
        if not callable(found):
            raise UserError(f"reward.function: {path} has no function {attribute!r}")
        return PythonFunction(name, found, file)

    def check_columns(self, contexts: Sequence[Context]) -> None:
        """Raises UserError where the function takes what no column of `contexts` provides."""
        self.columns = _names(contexts)
        self._signature.check(self.columns)

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> Scores:
        """Score N completions by the user's function."""
        columns = {
            name: [_value(context, name) for context in contexts]
            for name in dict.fromkeys([*self.columns, *_names(contexts)])
        }
        prompts = [context.prompt for context in contexts]
        with contextlib.nullcontext() if self.file is None else self.file.visit():
            result: Any = self._signature.call(self.function, list(texts), prompts, columns)
            scores: Scores = _awaited(result) if inspect.isawaitable(result) else result
            return scores


def as_reward(given: object, key: str = "reward") -> Reward:
    """A reward as it is; a function of texts, prompts and columns (see `Signature`) as a reward.

    Raises UserError, naming the `key`, for anything else.
    """
    if inspect.isclass(given) or not callable(given):
        kind = f"the class {given.__name__}" if inspect.isclass(given) else type(given).__name__
        raise UserError(
            f"{key}: is {kind}; give a reward, such as klvi.rewards.Contains('Paris'), or a "
            "function of a list of texts"
        )
    if isinstance(getattr(given, "name", None), str):
        return cast(Reward, given)
    name = getattr(given, "__name__", type(given).__name__)
    return PythonFunction(f"python ({name})", given)


def _names(contexts: Sequence[Context]) -> tuple[str, ...]:
    """Of all columns, in the order of their first appearance; rows may differ in them."""
    unique = {context.row: context for context in contexts}.values()
    names = dict.fromkeys(name for context in unique for name in context.columns)
    if any(context.messages is not None for context in unique):
        names.setdefault(MESSAGES)
    return tuple(names)


def _value(context: Context, name: str) -> Any:
    if name == MESSAGES and name not in context.columns:
        return context.messages
    return context.columns.get(name)


async def _result(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _awaited(awaitable: Awaitable[Any]) -> Any:
    """The awaitable's result; in a notebook, whose loop is running, from a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_result(awaitable))
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = asyncio.run(_result(awaitable))
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


@contextlib.contextmanager
def _importing(file: str) -> Iterator[None]:
    """Turns whatever a file raises while it is imported into a UserError.

    What is no Exception, such as an exit, is a RunError, and after a signal it is an Interruption.
    """
    try:
        yield
        interruption.check()
    except BaseException as error:
        cause = interruption.cause_of(error)
        if cause is not None:
            raise cause from error
        if isinstance(error, UserError):
            raise
        kind = UserError if isinstance(error, Exception) else RunError
        raise kind(f"reward.function: importing {file} {_problem(error)}") from error


def _problem(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"exits ({_exit(error)}); {MAIN}"
    if isinstance(error, CommandLineError):
        return f"parses a command line ({error}); {MAIN}"
    try:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
    except Exception:  # its own `__str__` fails
        said = type(error).__name__
    return f"failed: {said}"


def _exit(error: SystemExit) -> str:
    return "sys.exit()" if error.code is None else f"sys.exit({error.code!r})"
