"""Signals that end a command: raised where they arrive, held back while a run's end is written."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# Signals in so quick a succession, as of a terminal and of a scheduler, are one: the second would
# break off what the first has begun to tidy up.
SUCCESSION = 2.0
# Exceptions that may be swallowed, as by a reward that retries for ever.
PATIENCE = 2
SHELL = 128  # exit codes of what a signal ended begin here


class Interruption(KeyboardInterrupt):
    """A signal that asks the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """As a shell tells of a command that the signal ended."""
        return SHELL + int(self.signal)

    def __str__(self) -> str:
        return f"interrupted by {self.signal.name}"


@dataclass
class _Watch:
    """What the handler has seen since it was installed.

    Attributes:
        noted: the first signal.
        raised: when the latest exception was raised, in seconds.
        ignored: exceptions that something has swallowed.
        held: what is being written, and not to be broken off.
    """

    noted: int | None = None
    raised: float | None = None
    ignored: int = 0
    held: str | None = None


_watch = _Watch()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Within, signals are raised as `Interruption` in the main thread.

    Those that the parent ignores, as under nohup, stay ignored. Inside of another `watched`, or
    outside of the main thread, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread() or is_watching():
        yield
        return
    global _watch
    before: dict[int, Any] = {
        number: signal.getsignal(number)
        for number in SIGNALS
        if signal.getsignal(number) not in {None, signal.SIG_IGN}
    }
    _watch = _Watch()
    try:
        for number in before:
            signal.signal(number, _handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave() -> None:
    """From now on Ctrl-C ends the process at once: Python's handler would raise in its end."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def is_watching() -> bool:
    """Whether klvi's handler is in force for any signal."""
    return any(signal.getsignal(number) is _handle for number in SIGNALS)


def _handle(number: int, frame: FrameType | None) -> None:
    if _watch.noted is None:
        _watch.noted = number
    if _watch.held is not None:
        _tell(f"klvi: {signal.Signals(number).name}: {_watch.held} is being written; then it ends")
        return
    now = time.monotonic()
    if _watch.raised is not None and now - _watch.raised < SUCCESSION:
        return
    if _watch.ignored == PATIENCE:
        _tell(f"klvi: {signal.Signals(number).name}: nothing answers it; ended at once")
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    _watch.ignored += _watch.raised is not None
    _watch.raised = now
    raise Interruption(number)


def _in_child() -> None:
    """A process that user code forks answers signals as any other: klvi's work is its parent's."""
    for number in SIGNALS:
        if signal.getsignal(number) is _handle:
            interactive = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if interactive else signal.SIG_DFL)


os.register_at_fork(after_in_child=_in_child)


def _tell(line: str) -> None:
    # Python's own streams cannot be entered anew from a handler that came in the midst of a write.
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


@contextlib.contextmanager
def held(what: str) -> Iterator[None]:
    """Within, signals are noted, and answered by a line that `what` is being written."""
    before, _watch.held = _watch.held, what
    try:
        yield
    finally:
        _watch.held = before


def check() -> None:
    """Raises Interruption where a signal has come, whatever has become of its exception."""
    if _watch.noted is not None and is_watching():
        raise Interruption(_watch.noted)


def cause_of(error: BaseException) -> Interruption | None:
    """The signal behind an exception; None where there is none.

    What was raised after a signal had come is taken for its consequence. A KeyboardInterrupt of
    another origin than a signal is an exception as any other.
    """
    if isinstance(error, Interruption):
        return error
    if is_watching():
        return None if _watch.noted is None else Interruption(_watch.noted)
    real = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return Interruption(signal.SIGINT) if real and isinstance(error, KeyboardInterrupt) else None
