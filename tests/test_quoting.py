"""What klvi prints to be pasted comes back as it was."""

from __future__ import annotations

import random
import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from klvi.config.command_line import parse
from klvi.quoting import command, literal, override, shell_word, typed

PARTS = (
    *"ab7 ,=$\\#[]{}():*?!&|;<>@%+.~-_/'\"`^",
    *("${x}", "${", "\\${x}", "${oc.env:HOME}", "\\\\", "null", "true", "1e5", "inf", "~/", "-m"),
    *("=~/", "$(id)", "größe", "名", "🙂", "../", "  ", "%(a)s", "#b"),
)
NAMED = (
    *("runs/kl/a", "null", "true", "NULL", "7", "007", "1_0", "1e5", ".5", "inf", "-x", "~", "~/a"),
    *("a b", "a,b", "a=b", "$a", "${x}", "\\", "a\\", "a'", 'a"', "a'\"b", "#a", "[a]", "{a: 1}"),
    *("a:b", "choice(a,b)", "range(1,3)", "größe", " a ", "", "\\${x}", "a\\\\${", "!a", "it's #1"),
)
UNPRINTABLE = ("a\nb", "\x1b[31mred", "tab\tand 'quotes\\'", "\udcff\udc80", "\u202eleft", "\r")


def names() -> list[str]:
    """Odd names, the same in every run."""
    rng = random.Random(0)
    return [*NAMED, *("".join(rng.choices(PARTS, k=rng.randint(1, 8))) for _ in range(400))]


def read(words: list[str]) -> str:
    """What klvi makes of the words of a command line with a single override."""
    (word,) = parse(words).words[1:]
    parsed = OverridesParser.create().parse_override(word)
    assert not parsed.is_sweep_override(), word
    return OmegaConf.create({"run": parsed.value()}).run


def test_a_pasted_value_is_the_value() -> None:
    for name in names():
        line = command("resume", run=name)
        words = shlex.split(line)
        assert words[:2] == ["klvi", "resume"]
        assert read(words[1:]) == name, line


def test_unprintable_characters_survive_the_shell() -> None:
    lines = [command("resume", run=name) for name in UNPRINTABLE]
    assert all(line.isprintable() and line.isascii() for line in lines)
    script = 'klvi() { printf "%s\\0" "$2"; }\n' + "\n".join(lines)
    pasted = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    words = pasted.decode("utf-8", "surrogateescape").split("\0")[:-1]
    assert [read(["resume", word]) for word in words] == list(UNPRINTABLE)


@pytest.mark.parametrize("path", ["runs/kl/2025-01-31_10-20-30_ab12cd", "/a/b-c_d.e", "../a", "a"])
def test_plain_paths_stay_plain(path: str) -> None:
    assert command("resume", run=Path(path)) == f"klvi resume run={path}"
    assert override("hydra.sweep.dir", Path(path)) == f"hydra.sweep.dir={path}"


def test_quotes_are_few() -> None:
    assert typed("model.path", "my prior") == "model.path='\"my prior\"'"
    assert shell_word("beta=0.1") == "beta=0.1"


@pytest.mark.parametrize("path", ["~", "~/a", "~other", "???"])
def test_a_path_is_never_the_home_folder_nor_missing(path: str) -> None:
    found = read(shlex.split(command("resume", run=Path(path)))[1:])
    assert found == f"./{path}"


def test_nothing_in_a_literal_is_an_interpolation() -> None:
    for name in names():
        assert OmegaConf.create({"a": literal(name)}).a == name
