"""Signals: where they are raised, where they are held back, and what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from klvi import interruption
from klvi.cli import main
from klvi.interruption import SIGNALS, SUCCESSION, Interruption, cause_of, check, held, watched

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.fixture(autouse=True)
def signals(default_signals: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "_watch", interruption._Watch())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the time is, to be set."""
    now = [100.0]
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(interruption, "_tell", lines.append)
    return lines


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


def in_thread(action: Callable[[], object]) -> None:
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


@pytest.mark.parametrize(("number", "code"), [(INT, 130), (TERM, 143), (HUP, 129)])
def test_each_signal_is_raised_with_its_name_and_code(number: int, code: int) -> None:
    before = handlers()
    with pytest.raises(Interruption) as raised, watched():
        signal.raise_signal(number)
    assert raised.value.exit_code == code
    assert str(raised.value) == f"interrupted by {signal.Signals(number).name}"
    assert handlers() == before


@pytest.mark.parametrize("error", [None, ValueError, SystemExit, KeyboardInterrupt])
def test_handlers_are_put_back_however_it_ends(error: type[BaseException] | None) -> None:
    def own(number: int, frame: object) -> None:
        raise AssertionError

    signal.signal(TERM, own)
    before = handlers()
    for _ in range(2):
        try:
            with watched():
                assert signal.getsignal(TERM) is not own
                if error is not None:
                    raise error
        except BaseException as raised:
            assert type(raised) is error  # noqa: PT017
        assert handlers() == before


def test_the_inner_of_two_changes_nothing(clock: list[float]) -> None:
    with watched():
        outer = handlers()
        with pytest.raises(Interruption), watched():
            signal.raise_signal(TERM)
        assert handlers() == outer
        with watched(), pytest.raises(Interruption, match="SIGTERM"):
            check()
        with pytest.raises(Interruption):
            check()


def test_what_one_watch_has_seen_the_next_has_not() -> None:
    with pytest.raises(Interruption), watched():
        signal.raise_signal(TERM)
    with watched():
        check()
        with pytest.raises(Interruption, match="SIGINT"):
            signal.raise_signal(INT)


@pytest.mark.parametrize("ignored", [[HUP], [INT], [INT, HUP], list(SIGNALS)])
def test_what_the_parent_ignores_stays_ignored(ignored: list[int]) -> None:
    """As under nohup, or of a shell's background job."""
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    with watched():
        for number in ignored:
            signal.raise_signal(number)
        check()
        for number in {*SIGNALS} - {*ignored}:
            assert signal.getsignal(number) is interruption._handle
    assert [signal.getsignal(number) for number in ignored] == [signal.SIG_IGN] * len(ignored)


def test_a_second_signal_at_once_is_one_with_the_first_and_a_later_one_is_not(
    clock: list[float],
) -> None:
    with watched():
        with pytest.raises(Interruption):
            signal.raise_signal(INT)
        clock[0] += SUCCESSION * 0.99
        signal.raise_signal(TERM)
        signal.raise_signal(INT)
        clock[0] += SUCCESSION * 0.02
        with pytest.raises(Interruption, match="SIGHUP"):
            signal.raise_signal(HUP)
        clock[0] += SUCCESSION * 0.5
        signal.raise_signal(HUP)
        with pytest.raises(Interruption, match="SIGINT"):  # the first is the cause
            check()


def test_while_something_is_written_signals_are_noted_and_answered(
    clock: list[float], told: list[str]
) -> None:
    with watched():
        with held("the checkpoint"):
            signal.raise_signal(TERM)
            with held("the summary"):
                clock[0] += 9
                signal.raise_signal(INT)
            clock[0] += 9
            signal.raise_signal(HUP)
        with pytest.raises(Interruption, match="SIGTERM"):
            check()
        with pytest.raises(Interruption):  # none was raised so far
            signal.raise_signal(INT)
    assert told == [
        "klvi: SIGTERM: the checkpoint is being written; then it ends",
        "klvi: SIGINT: the summary is being written; then it ends",
        "klvi: SIGHUP: the checkpoint is being written; then it ends",
    ]


def test_what_fails_while_it_is_written_holds_no_longer() -> None:
    with watched():
        with pytest.raises(OSError, match="full"), held("the summary"):
            raise OSError("full")
        with pytest.raises(Interruption):
            signal.raise_signal(TERM)


def test_a_signal_is_the_cause_of_what_came_after_it(told: list[str]) -> None:
    error = ValueError("in the midst")
    with watched():
        assert cause_of(error) is None
        assert cause_of(KeyboardInterrupt()) is None  # some library's, or a reward's
        with held("it"):
            signal.raise_signal(TERM)
        cause = cause_of(error)
        assert cause is not None
        assert cause.signal is TERM
        assert cause_of(Interruption(HUP)).signal is HUP
    assert cause_of(error) is None


def test_without_a_watch_a_ctrl_c_is_known_by_pythons_own_handler() -> None:
    assert cause_of(KeyboardInterrupt()).signal is INT
    assert cause_of(SystemExit()) is None
    signal.signal(INT, signal.SIG_IGN)
    assert cause_of(KeyboardInterrupt()) is None
    with pytest.raises(Interruption):
        raise Interruption(INT)
    check()


def test_threads_neither_install_handlers_nor_get_the_exception(clock: list[float]) -> None:
    before, seen = handlers(), []

    def other() -> None:
        with watched():
            seen.append(handlers() == before)

    in_thread(other)
    assert seen == [True]
    with watched():
        in_thread(lambda: seen.append(handlers()))
        with pytest.raises(Interruption):
            in_thread(lambda: signal.pthread_kill(threading.main_thread().ident, TERM))
        with pytest.raises(Interruption):
            check()
    assert handlers() == before


def test_the_answer_fails_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int, data: bytes) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(interruption.os, "write", refuse)
    with watched(), held("it"):
        signal.raise_signal(TERM)


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_after_the_command_ctrl_c_is_the_system_s(
    before: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own handler would raise, with a traceback, while the process takes itself apart."""
    signal.signal(signal.SIGINT, before)
    monkeypatch.setattr("sys.argv", ["klvi", "--version"])
    assert main() == 0
    expected = signal.SIG_IGN if before is signal.SIG_IGN else signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is expected


def test_who_insists_ends_what_swallows_every_exception() -> None:
    """As a reward that retries for ever does; the time between signals is no time of the test's."""
    script = """
import os, signal
from klvi import interruption
interruption.SUCCESSION = 0.0
with interruption.watched():
    while True:
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            pass
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == -signal.SIGINT
    assert found.stderr == "klvi: SIGINT: nothing answers it; ended at once\n"


def test_a_forked_child_answers_signals_as_any_process() -> None:
    with interruption.watched():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)  # not reached
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
