"""A user's Python file in klvi's process: imported and called as if it were alone there."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, Protocol

from klvi import interruption
from klvi.rewards.code import imported
from klvi.rewards.process_state import Lent
from klvi.terminal import tell

READS_ARGUMENTS = "reads the command line (sys.argv), which is klvi's: it sees no arguments"
PRINTS = "prints to the standard output, which is klvi's: it goes to the standard error"


class CommandLineError(Exception):
    """What argparse would leave the process for."""


class NoTerminalError(EOFError):
    """Input asked for where nobody answers."""


@dataclass
class UserFile:
    """A file's own place in the process: its neighbours' modules, streams, arguments, state.

    Attributes:
        path: of the file; what lies beside it can be imported by name, as from a script.
        notify: is told, in words, of what the file does that klvi undoes or withholds.
    """

    path: Path
    notify: Callable[[str], None]
    _modules: dict[str, ModuleType] = field(default_factory=dict)
    _paths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lent = Lent(lambda name: self.notify(f"changes {name}: within it alone"))
        self._finder = _Neighbours(self.path.parent)
        self._out = _DivertedOutput(lambda: self.notify(PRINTS))

    def load(self) -> ModuleType:
        """Import the file; whatever it raises comes through.

        Raises ImportError where it is not a Python file.
        """
        importlib.invalidate_caches()
        name = self._module_name()
        spec = importlib.util.spec_from_file_location(name, self.path)
        if spec is None or spec.loader is None:
            raise ImportError("its name does not end in .py")
        module = importlib.util.module_from_spec(spec)
        with self.visit():
            sys.modules[name] = module
            self._modules[name] = module
            spec.loader.exec_module(module)
        return module

    def _module_name(self) -> str:
        """The file's own, by which a process that it starts finds it, unless that is taken."""
        stem = self.path.stem
        free = stem.isidentifier() and stem not in sys.modules
        if free:
            found = importlib.util.find_spec(stem)
            free = found is None or found.origin == str(self.path)
        digest = sha256(str(self.path).encode()).hexdigest()[:16]
        return stem if free else f"klvi_reward_{digest}"

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """Within, the process is the file's; afterwards it is klvi's as it was."""
        with (
            self._lent.lend(),
            self._imports(),
            contextlib.redirect_stdout(self._out),
            _replaced(sys, "stdin", _ClosedInput()),
            _replaced(sys, "argv", _NoArguments([str(self.path)], self.notify)),
            _replaced(argparse.ArgumentParser, "error", _refuse_command_line),
            _replaced(os, "_exit", _exit_of(os.getpid())),
            _replaced(signal, "signal", _signal_of(os.getpid(), self.notify)),
        ):
            yield

    @contextlib.contextmanager
    def _imports(self) -> Iterator[None]:
        paths = list(sys.path)
        hidden = {name: sys.modules.get(name) for name in self._modules}
        sys.modules.update(self._modules)
        sys.path[:] = [*(self._paths or [*paths, str(self.path.parent)])]
        sys.meta_path.insert(0, self._finder)
        known = set(sys.modules)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):
                sys.meta_path.remove(self._finder)
            own = [name for name in set(sys.modules) - known if self._finder.holds(name)]
            for name in own:
                self._modules[name] = sys.modules[name]
                hidden[name] = None
            self._tell_unseen(own)
            self._paths, sys.path[:] = list(sys.path), paths
            for name, module in hidden.items():
                if module is None:
                    sys.modules.pop(name, None)
                else:
                    sys.modules[name] = module

    def _tell_unseen(self, names: Sequence[str]) -> None:
        """Name the neighbours that reading the file does not tell: they are not signed."""
        specs = [getattr(self._modules[name], "__spec__", None) for name in names]
        files = {spec.origin for spec in specs if spec is not None and spec.has_location}
        seen = {self.path, *imported(self.path)} if files else set()
        for file in sorted(files - set(map(str, seen))):
            self.notify(f"imports {file} by a computed name: a change in it goes unnoticed")


@dataclass(frozen=True)
class _Neighbours:
    """Finds what lies beside a file before what is installed, but never hides Python's own."""

    folder: Path

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if "." in name or name in sys.stdlib_module_names:
            return None
        spec = PathFinder.find_spec(name, [str(self.folder)])
        # A folder without code, such as `wandb` or `data`, is the last choice in Python, too.
        return None if spec is None or spec.loader is None or spec.origin is None else spec

    def holds(self, name: str) -> bool:
        """Whether an imported module is a neighbour, or inside of one."""
        spec = getattr(sys.modules.get(name.partition(".")[0]), "__spec__", None)
        if spec is None:
            return False
        places = [*(spec.submodule_search_locations or []), *filter(None, [spec.origin])]
        return any(Path(place).parent == self.folder for place in places)


class _DivertedOutput:
    """Standard output that goes to the standard error, and says that it was used."""

    def __init__(self, used: Callable[[], None]) -> None:
        self._used = used

    def write(self, text: str) -> int:
        if text.strip():
            self._used()
        return sys.stderr.write(text)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


class _ClosedInput(io.TextIOBase):
    """Standard input on which nobody answers."""

    def _refuse(self, *_: object) -> NoReturn:
        raise NoTerminalError("it asks for input, and nobody is there to answer")

    read = readline = readlines = __next__ = _refuse


class _NoArguments(list[str]):
    """A command line of the file's name alone that says when its arguments are read."""

    def __init__(self, arguments: list[str], notify: Callable[[str], None]) -> None:
        super().__init__(arguments)
        self._notify = notify

    def __getitem__(self, index: Any) -> Any:
        if index != 0:
            self._notify(READS_ARGUMENTS)
        return super().__getitem__(index)

    def __reduce__(self) -> tuple[Any, ...]:
        """A plain list, for a process that the file starts."""
        return list, (list(self),)


def _refuse_command_line(self: argparse.ArgumentParser, message: str) -> NoReturn:
    raise CommandLineError(message)


def _exit_of(process: int) -> Callable[[int], NoReturn]:
    """`os._exit`, which in klvi's own process leaves as `sys.exit` would; not in a forked one."""
    leave = os._exit

    def leave_child(status: int) -> NoReturn:
        if os.getpid() == process:
            raise SystemExit(status)
        leave(status)

    return leave_child


def _signal_of(process: int, notify: Callable[[str], None]) -> Callable[[int, Any], Any]:
    """`signal.signal`, which in klvi's own process leaves the handlers that end it in force."""
    install = signal.signal

    def guarded(number: int, handler: Any) -> Any:
        if os.getpid() != process or number not in interruption.SIGNALS:
            return install(number, handler)
        present = signal.getsignal(number)
        if handler is not present:
            name = signal.Signals(number).name
            notify(f"changes the handler of {name}: it stays klvi's, so that the run can be ended")
        return present

    return guarded


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class Warn(Protocol):
    """Prints a warning once: the first of its kind, or of its words."""

    def __call__(self, message: str, kind: str | None = None) -> None:
        """Warn, unless something of this `kind` was warned of before."""


def warn_once(name: str) -> Warn:
    """Warns of what is called `name`, on the standard error of the time of the call."""
    told: set[str] = set()

    def warn(message: str, kind: str | None = None) -> None:
        if (kind or message) not in told:
            told.add(kind or message)
            tell(f"warning: {name} {message}")

    return warn
