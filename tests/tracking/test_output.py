"""What is printed and logged, whatever becomes of the terminal and the log."""

import io
import os
import sys

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from klvi.console import console
from klvi.terminal import safe_streams
from klvi.tracking.output import Output, warning
from klvi.tracking.progress import UpdateProgress


@pytest.mark.parametrize("own", [True, False])
def test_terminal_and_log_are_harmless(tmp_path, own):
    file = io.StringIO()
    output = Output(console(file) if own else Console(file=file, markup=False))
    output.copy_to(tmp_path / "run.log")
    output.print("model \x1b]0;title\x07 π")
    output.print(Text("wandb: \x9b2J \u202e", style="red"))
    log = (tmp_path / "run.log").read_text("utf-8")
    for shown in (file.getvalue(), log):
        assert r"model \x1b]0;title" in shown
        assert r"wandb: \x9b2J \u202e" in shown
        assert not set("\x1b\x9b\x07\u202e") & set(shown)


def test_control_characters_that_rich_drops_are_shown(tmp_path):
    file = io.StringIO()
    output = Output(console(file))
    output.copy_to(tmp_path / "run.log")
    table = Table("name")
    table.add_row("c\x0cd")
    output.print("a\x07\x08b\r")
    output.print(warning("e\x0bf"))
    output.print(table)
    for shown in (file.getvalue(), (tmp_path / "run.log").read_text()):
        assert r"a\x07\x08b\r" in shown
        assert r"e\x0bf" in shown
        assert r"c\x0cd" in shown


def test_a_log_that_cannot_be_written_is_told_once(tmp_path):
    file = io.StringIO()
    output = Output(Console(file=file, width=1000))
    (tmp_path / "run.log").mkdir()
    for number in range(3):
        output.copy_to(tmp_path / "run.log")
        output.print(f"line {number}")
    shown = file.getvalue()
    assert shown.count(str(tmp_path / "run.log")) == 1
    assert "line 2" in shown


def test_a_log_is_not_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "run.log").symlink_to("elsewhere")
    output = Output(Console(file=io.StringIO()))
    output.copy_to(tmp_path / "run.log")
    output.print("line")
    assert (tmp_path / "elsewhere").read_text() == "kept"


def test_a_bar_outlives_its_terminal(tmp_path, monkeypatch):
    """The log has all, although every write to a terminal that is gone fails."""
    ours, theirs = os.openpty()
    with open(theirs, "w", encoding="utf-8") as lost:
        monkeypatch.setattr(sys, "stdout", lost)
        monkeypatch.setenv("TERM", "xterm")
        with safe_streams():
            output = Output()
            output.copy_to(tmp_path / "run.log")
            assert output.live
            with UpdateProgress(output.terminal, "kl", 2, 0) as progress:
                os.close(ours)
                progress.show({"update": 1})
                progress.refresh()
                output.print("after")
            assert sys.stdout.problem is not None
    assert (tmp_path / "run.log").read_text() == "after\n"
