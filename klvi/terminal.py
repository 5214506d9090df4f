"""Standard streams that cannot end a run, and text that is harmless to a terminal or a log.

Nothing here imports torch.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import io
import os
import select
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from klvi.errors import UserError

STANDARD = (0, 1, 2)
LOWEST_COPY = 10  # of a descriptor: out of the way of those that have a meaning
STAND_INS = {
    **{"π": "pi", "β": "beta", "λ": "lambda", "γ": "gamma", "ρ": "rho", "σ": "sigma"},
    **{"Σ": "sum", "Λ": "Lambda", "∇": "grad", "√": "sqrt", "∝": "~", "∞": "inf"},
    **{"‖": "||", "±": "+-", "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "≈": "~", "×": "x"},
    **{"−": "-", "–": "-", "—": "-", "…": "...", "·": "*", "½": "1/2", "°": " degrees"},
    **{
        "²": "^2",
        "³": "^3",
        "⁶": "^6",
        "ᵀ": "^T",
        "₀": "0",
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
    },
}
PATIENCE = 2.0  # seconds that threads have at the end of the process before they are named


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """What is written for characters that an encoding lacks: a stand-in, else an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(
        STAND_INS.get(character) or _escape(character) for character in lacking
    ), error.end


ERRORS = "klvi.stand-in"
codecs.register_error(ERRORS, _stand_in)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def printable(text: str) -> str:
    """The text on one line, its control characters spelled out: harmless to a terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _escape(character) for character in text
    )


def harmless(text: str) -> str:
    """As `printable`, with its lines and tabs left as they are."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in "\n\t" else _escape(character)
        for character in text
    )


def put(text: str = "", file: TextIO | None = None) -> None:
    """Print a text, its control characters spelled out, to the standard output or to `file`."""
    print(harmless(text), file=file or sys.stdout)


def tell(line: str) -> None:
    """Tell the user on the standard error, in one line whatever is in it."""
    put(f"klvi: {printable(line)}", sys.stderr)


def report(error: UserError) -> None:
    """Tell the user, a line per problem."""
    for problem in error.problems:
        tell(f"error: {problem}")


def report_exception() -> None:
    """Print the traceback of the exception that is being handled."""
    put(traceback.format_exc().rstrip("\n"), sys.stderr)


class _Descriptor(io.RawIOBase):
    """The lower end of a standard stream: after a write that fails, all goes nowhere.

    It writes to a copy of the descriptor: whoever closes the number, and whatever file is then
    opened under it, klvi's output does not get in there.
    """

    mode = "wb"

    def __init__(self, number: int, name: str) -> None:
        super().__init__()
        self.name = name
        self.problem: OSError | None = None
        self._number = self._copy = number
        with contextlib.suppress(OSError):
            self._copy = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, LOWEST_COPY)

    def write(self, data: Any) -> int:
        """Write all of it, or forget the rest."""
        content = memoryview(data).cast("B")
        left = content
        while left and self.problem is None:
            try:
                left = left[os.write(self._copy, left) :]
            except BlockingIOError:  # somebody else's setting of a terminal that is shared
                _wait_for(self._copy)
            except OSError as error:
                self.problem = error
        return len(content)

    def retire(self) -> None:
        """From now on, all goes nowhere."""
        self.problem = self.problem or OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._copy != self._number:
            os.close(self._copy)

    def fileno(self) -> int:
        """The number by which the process knows it."""
        return self._number

    def isatty(self) -> bool:
        """Whether it is a terminal, and still there."""
        return self.problem is None and os.isatty(self._copy)

    def writable(self) -> bool:
        """It is."""
        return True


def _wait_for(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


class SafeStream(io.TextIOWrapper):
    """A standard stream to which writing never fails, whatever its encoding lacks."""

    def __init__(self, number: int, name: str, like: io.TextIOWrapper | None) -> None:
        self._descriptor = _Descriptor(number, name)
        through = like is not None and like.write_through
        super().__init__(
            self._descriptor if through else io.BufferedWriter(self._descriptor),
            encoding="utf-8" if like is None else like.encoding,
            errors=ERRORS,
            newline="\n",
            line_buffering=like is not None and like.line_buffering,
            write_through=through,
        )

    @property
    def problem(self) -> OSError | None:
        """The failure since which all goes nowhere."""
        return self._descriptor.problem

    def write(self, text: str) -> int:
        """Write, if that can be done."""
        try:
            return super().write(text)
        except (OSError, ValueError):  # ValueError: somebody has closed or detached what is below
            return len(text)

    def flush(self) -> None:
        """Flush, if that can be done."""
        with contextlib.suppress(OSError, ValueError):
            super().flush()

    def close(self) -> None:
        """Flush; a standard stream stays open."""
        self.flush()

    def retire(self) -> None:
        """Flush, and write nothing any more."""
        self.flush()
        self._descriptor.retire()


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Within, writing to `sys.stdout` and `sys.stderr` does not fail, also where they are closed.

    The process's own streams stay so until it ends, with Python's own last flush; those that
    somebody put in their place, as tests do, are put back. What Python itself prints of warnings
    and of exceptions that nobody catches is harmless.
    """
    _open_closed()
    replaced: list[tuple[str, Any, SafeStream]] = []
    for name in ("stdout", "stderr"):
        before = getattr(sys, name)
        safe = _safe(before, name)
        if safe is not None:
            setattr(sys, name, safe)
            replaced.append((name, before, safe))
    try:
        with _harmless_hooks():
            yield
    finally:
        for name, before, safe in replaced:
            safe.flush()
            if before is not getattr(sys, f"__{name}__"):
                setattr(sys, name, before)
                safe.retire()


@contextlib.contextmanager
def _harmless_hooks() -> Iterator[None]:
    before = warnings.formatwarning, threading.excepthook, sys.unraisablehook

    def format_warning(*arguments: Any, **named: Any) -> str:
        return harmless(before[0](*arguments, **named))

    warnings.formatwarning = format_warning
    threading.excepthook, sys.unraisablehook = _put_of_thread, _put_unraisable
    try:
        yield
    finally:
        warnings.formatwarning, threading.excepthook, sys.unraisablehook = before


def _put_of_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_type is not SystemExit:  # as Python's own hook
        name = getattr(found.thread, "name", None)
        _put_exception(f"Exception in thread {name}:", found.exc_value)


def _put_unraisable(found: sys.UnraisableHookArgs) -> None:
    if isinstance(found.exc_value, KeyboardInterrupt):
        return  # a signal that came to a finalizer: it is noted, and answered later
    _put_exception(f"{found.err_msg or 'Exception ignored in'}: {found.object!r}", found.exc_value)


def _put_exception(heading: str, error: BaseException | None) -> None:
    lines = [] if error is None else traceback.format_exception(error)
    put("".join([f"{heading}\n", *lines]).rstrip("\n"), sys.stderr)


def _open_closed() -> None:
    """Open the standard descriptors that are closed: the next file would come to be one."""
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)


def _safe(stream: Any, name: str) -> SafeStream | None:
    """A safe stream in the place of `stream`; None for one that is safe or has no descriptor."""
    if stream is None or getattr(stream, "closed", False):
        return SafeStream(os.open(os.devnull, os.O_WRONLY), f"<{name}>", None)
    if isinstance(stream, SafeStream) or not isinstance(stream, io.TextIOWrapper):
        return None
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    return SafeStream(number, f"<{name}>", stream)


def output_problem() -> OSError | None:
    """Why the standard output did not take all, as of a full disk; None where its reader left."""
    sys.stdout.flush()
    problem = getattr(sys.stdout, "problem", None)
    return None if problem is None or problem.errno == errno.EPIPE else problem


def tell_of_threads(patience: float = PATIENCE) -> threading.Thread | None:
    """Have the user told, `patience` seconds from now, of threads for which the process waits.

    Returns the thread that will tell; None where there is nothing to wait for.
    """
    if not _others():
        return None
    timer = threading.Timer(patience, _name_threads)
    timer.daemon = True
    timer.start()
    return timer


def _name_threads() -> None:
    names = ", ".join(thread.name for thread in _others())
    if names:
        tell(f"done, but kept waiting by what goes on beside it: thread {names}")


def _others() -> list[threading.Thread]:
    """The threads that the process does not leave behind when it ends."""
    apart = (threading.main_thread(), threading.current_thread())
    return [t for t in threading.enumerate() if not t.daemon and t not in apart]
