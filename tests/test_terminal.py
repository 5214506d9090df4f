"""Standard streams that fail, encodings that lack letters, and text that a terminal would obey."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import redirect_stdout

import pytest

from klvi import terminal
from klvi.cli import main
from klvi.console import console as made
from klvi.errors import UserError
from klvi.files import to_json
from klvi.interruption import Interruption
from klvi.job import report
from klvi.terminal import harmless, output_problem, printable, put, safe_streams, tell_of_threads
from klvi.tracking import tables

NASTY = "a\x1b[31mb\x07\r\x7f\x9b1m\u202ec\u2028d\ud800"
OBEYED = set("\x1b\x07\r\x7f\x9b\u202e\u2028\ud800")


def stream(descriptor, encoding="utf-8"):
    return open(descriptor, "w", encoding=encoding, newline="\n")


@pytest.fixture
def full():
    """A stream on a full disk."""
    with stream("/dev/full") as output:
        yield output


@pytest.fixture
def broken_pipe():
    """A stream whose reader has left."""
    reading, writing = os.pipe()
    os.close(reading)
    with stream(writing) as output:
        yield output


def fill():
    print("x" * 100_000)
    sys.stdout.flush()
    print("more", flush=True)


def test_a_full_output_raises_nothing_and_is_known(full):
    with redirect_stdout(full):
        with safe_streams():
            fill()
            assert output_problem().errno == errno.ENOSPC
        assert sys.stdout is full


def test_a_reader_that_leaves_is_no_problem(broken_pipe):
    with redirect_stdout(broken_pipe), safe_streams():
        fill()
        assert sys.stdout.problem.errno == errno.EPIPE
        assert output_problem() is None


@pytest.mark.parametrize("close", ["close", "buffer.close", "buffer.raw.close", "detach"])
def test_a_stream_that_somebody_closes_raises_nothing(full, close):
    with redirect_stdout(full), safe_streams():
        target = sys.stdout
        *path, name = close.split(".")
        for part in path:
            target = getattr(target, part)
        getattr(target, name)()
        print("x", flush=True)


def test_a_closed_descriptor_is_no_way_into_the_next_file(tmp_path, monkeypatch):
    with stream(tmp_path / "out") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with safe_streams():
            number = sys.stdout.fileno()
            os.close(number)
            file = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)
            assert file == number
            print("told", flush=True)
    assert (tmp_path / "out").read_text() == "told\n"
    assert (tmp_path / "other").read_bytes() == b""


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "KL(pi||p) +-"), ("latin-1", "KL(pi||p) ±")]
)
def test_what_an_encoding_lacks_has_a_stand_in(tmp_path, monkeypatch, encoding, shown):
    with stream(tmp_path / "out", encoding) as output:
        monkeypatch.setattr(sys, "stdout", output)
        with safe_streams():
            print("KL(π‖p) ±", "\u4e00 \ud800 \U0001f600")
    text = (tmp_path / "out").read_text(encoding)
    assert text == shown + r" \u4e00 \ud800 \U0001f600" + "\n"


def test_control_characters_are_spelled_out():
    assert printable(NASTY + "\n") == (r"a\x1b[31mb\x07\r\x7f\x9b1m\u202ec\u2028d\ud800\n")
    assert harmless("a\tb\n\x1b") == "a\tb\n" + r"\x1b"
    assert tables.printable is printable


def test_error_lines_and_printed_texts_are_harmless(capsys):
    report(UserError(f"model.name={NASTY}: unknown"))
    put(NASTY)
    shown = capsys.readouterr()
    assert not OBEYED & set(shown.out + shown.err)
    assert r"klvi: error: model.name=a\x1b[31mb" in shown.err


def test_tracebacks_are_harmless(capsys):
    try:
        raise ValueError(NASTY)
    except ValueError:
        terminal.report_exception()
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert len(shown.splitlines()) > 2
    assert not OBEYED & set(shown)


def test_what_python_itself_prints_is_harmless(capsys):
    class Nasty:
        def __del__(self):
            raise ValueError(NASTY)

        def __repr__(self):
            return NASTY

    def fail():
        raise ValueError(NASTY)

    def leave():
        raise SystemExit(NASTY)

    hooks = warnings.formatwarning, threading.excepthook, sys.unraisablehook
    with safe_streams(), warnings.catch_warnings():
        warnings.simplefilter("always")
        # Not pytest's own way to show them.
        print(warnings.formatwarning(NASTY, UserWarning, "file\x1b.py", 3), file=sys.stderr)
        for action in (fail, leave):
            thread = threading.Thread(target=action, name=f"loader {NASTY}")
            thread.start()
            thread.join()
        Nasty()
    shown = capsys.readouterr().err
    assert not OBEYED & set(shown)
    assert r"file\x1b.py:3: UserWarning: a\x1b[31mb" in shown
    assert shown.count("Exception in thread loader") == 1
    assert shown.count(r"ValueError: a\x1b[31mb") == 2
    assert "__del__" in shown
    assert hooks == (warnings.formatwarning, threading.excepthook, sys.unraisablehook)


def test_a_signal_that_came_to_a_finalizer_is_no_traceback(capsys):
    class Interrupted:
        def __del__(self):
            raise Interruption(signal.SIGINT)

    with safe_streams():
        Interrupted()
    assert capsys.readouterr().err == ""


def test_consoles_are_harmless_and_keep_their_colours():
    console = made(io.StringIO(), force_terminal=True, width=200, color_system="256")
    console.print("plain " + NASTY, style="red")
    shown = console.file.getvalue()
    assert shown.startswith("\x1b[31mplain")
    assert r"a\x1b[31mb" in shown
    assert not (OBEYED - {"\x1b"}) & set(shown)


def test_json_is_harmless_and_means_the_same():
    text = to_json({"text": NASTY + "é\U000e0001π"}, indent=2)
    assert not OBEYED & set(text)
    assert "é" in text
    assert "π" in text
    assert json.loads(text)["text"] == NASTY + "é\U000e0001π"


def test_a_command_that_only_prints_fails_where_nothing_takes_it(full, capfd):
    with redirect_stdout(full):
        assert main(["--version"]) == 1
    assert "klvi: error: standard output: No space left" in capfd.readouterr().err


def test_a_command_that_only_prints_may_lose_its_reader(broken_pipe):
    with redirect_stdout(broken_pipe):
        assert main(["--version"]) == 0


@pytest.mark.parametrize(
    ("line", "only"),
    [
        ("", True),
        ("train --help", True),
        ("train --cfg job", True),
        ("sample run=x", True),
        ("sample run=x out=y", False),
        ("env", True),
        ("train beta=1", False),
        ("eval run=x", False),
    ],
)
def test_which_commands_only_print(line, only):
    from klvi.cli import _only_prints

    assert _only_prints(line.split()) is only


def test_a_thread_that_keeps_the_process_is_named(capsys):
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="up\x1bloader", daemon=False)
    thread.start()
    try:
        timer = tell_of_threads(0.0)
        assert timer is not None
        timer.join()
    finally:
        done.set()
        thread.join()
    assert r"up\x1bloader" in capsys.readouterr().err


def test_closed_descriptors_are_opened(installed_klvi, tmp_path):
    """Whatever is opened next would come to be standard output."""
    command = f"{installed_klvi} --version <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, check=False).returncode == 0


def test_pythons_own_last_flush_has_nothing_to_complain_about(installed_klvi, tmp_path):
    command = f"PYTHONIOENCODING=ascii {installed_klvi} --version > /dev/full 2> /dev/full"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, check=False).returncode == 1


def test_a_line_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    """What stands in somebody else's file cannot pass for a line of klvi's own."""
    report(UserError("beta=x\nklvi: note: do this\ttoo: must be a number"))
    assert capsys.readouterr().err == (
        "klvi: error: beta=x\\nklvi: note: do this\\ttoo: must be a number\n"
    )
