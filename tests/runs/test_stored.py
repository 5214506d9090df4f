"""What a run's folder holds is data: whole, shallow, plain, and word for word what was written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from klvi.runs import stored
from klvi.runs.stored import DEEPEST, escaped, read_config, write_config

TEXTS = [
    *(
        "",
        "a",
        " a ",
        "null",
        "true",
        "no",
        "1e-4",
        "0x10",
        "1_000",
        "12:30",
        "2026-01-01",
        "=",
        "<<",
    ),
    *("- a", "a: b", "#", "&a", "*a", "!a", "%", "@", "`", "'", '"', "...", "---", "a\n...\n"),
    *("${oc.env:HOME}", "\\${x}", "\\\\${x}", "$${x}", "${", "\\", "???", "a\\", "${a:${b}}"),
    *("\x1b[31m", "\x00", "\x07\r\n\t", "\x85", "\u2028", "\u202e", "\ufeff", "é", "\U0001f600"),
]


NUMBERS = [0, -1, 10**19, 1e-4, 1e300, 5e-324, 1e16, 0.1, -0.0, float("inf"), True, False, None]


VALUES: dict[str, Any] = {
    "texts": TEXTS,
    "keys": dict(zip(TEXTS, range(99), strict=False)),
    "numbers": NUMBERS,
    "empty": [{}, []],
}


def read(folder: Path, content: bytes | str) -> dict[str, Any]:
    content = content.encode() if isinstance(content, str) else content
    (folder / stored.CONFIG).write_bytes(content)
    return read_config(folder)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    text = write_config(VALUES, tmp_path)
    assert (tmp_path / stored.CONFIG).read_text() == text
    assert read_config(tmp_path) == VALUES
    for before, after in zip(NUMBERS, read_config(tmp_path)["numbers"], strict=True):
        assert type(before) is type(after)
    assert not {"\x1b", "\x07", "\x00", "\u202e", "\u2028"} & set(text)


def test_what_omegaconf_makes_of_an_escaped_value_is_the_value() -> None:
    values = {str(number): text for number, text in enumerate(TEXTS) if text != "???"}
    values = {"section": values, "list": [[*values.values()]]}
    created = OmegaConf.create(escaped(values))
    assert OmegaConf.to_container(created, resolve=True) == values


def test_a_config_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    values = {"beta": 0.1, "text": "π: ...", "lora": {"r": 16, "targets": ["a", "b"]}, "last": 1000}
    whole = write_config(values, tmp_path).encode()
    (tmp_path / stored.MANIFEST).touch()
    for length in range(len(whole) - 1):
        with pytest.raises(ValueError, match=r"cut short|can't decode"):
            read(tmp_path, whole[:length])
    assert read(tmp_path, whole[:-1]) == read(tmp_path, whole) == values


@pytest.mark.parametrize(
    ("content", "problem"),
    {
        "a: &a [x, x]\nb: *a": "has an anchor",
        "a: &a 1": "has an anchor",
        "a: *a": "has an anchor",
        "a: &a {b: *a}": "has an anchor",
        "&a : 1": "has an anchor",
        "a: !!python/object/apply:os.system [id]": "has the tag tag:yaml.org,2002:python/object",
        "a: !mine 1": "has the tag !mine",
        "a: !!binary YQ==": "has the tag",
        "a: !!timestamp 2026-01-01": "has the tag",
        "a: !!set {b}": "has the tag",
        "!!omap [a: 1]": "has the tag",
        "a: 1\na: 2": "key twice",
        "a: {b: 1, 'b': 2}": "key twice",
        "1: 1\n'1': 2": "key twice",
        "? [a]\n: 1": "no text",
        "? {a: 1}\n: 1": "no text",
        "a: " + "[" * 99 + "]" * 99: "nested too deeply",
        "a: " + "{a: " * DEEPEST + "1" + "}" * DEEPEST: "nested too deeply",
        "a: " + "[" * 500_000: "nested too deeply",
        "\n".join("-" * (n > 0) + " " * n + "- a" for n in range(99)): "",
        "a: 1\n---\nb: 2": "another document",
        "a: \x1b[31m": "special characters are not allowed",
        "a: '\x07'": "special characters are not allowed",
        "a: [": "expected",
        "a: b: c": "mapping values are not allowed",
        "%YAML 9.9\n---\na: 1": "incompatible YAML document",
        "a: !!int x": "",
        "a: !!float x": "",
        "a: !!bool x": "not of the kind that its tag says",
        "a: !!int ''": "",
        "a: !!float ''": "",
        "a: !!map x": "",
        "a: !!seq x": "",
        "a: !!str [x]": "",
        "a: " + "9" * 5000: "",
        "": "not a mapping",
        "...": "expected the node content",
        "- a": "not a mapping",
        "a": "not a mapping",
        "~": "not a mapping",
    }.items(),
)
def test_what_is_no_plain_mapping_is_refused(content: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        read(tmp_path, content)
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "value"),
    {
        "a: 2026-01-01": "2026-01-01",
        "a: 12:30": 750,
        "a: <<": "<<",
        "a: {<<: {b: 1}}": {"<<": {"b": 1}},
        "a: =": "=",
        "a: ${oc.env:HOME}": "${oc.env:HOME}",
        "a: 1e-4": 1e-4,
        "a: +1E5": 1e5,
        "a: 1e": "1e",
        "a: " + "[" * (DEEPEST - 2) + "]" * (DEEPEST - 2): None,
        "a: {1: 2, true: 3, null: 4}": {"1": 2, "true": 3, "null": 4},
    }.items(),
)
def test_what_is_plain_is_taken_as_it_stands(content: str, value: Any, tmp_path: Path) -> None:
    assert value in (None, read(tmp_path, content)["a"])


def test_a_config_is_a_regular_file_of_bounded_size_in_utf_8(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="holds more than"):
        read(tmp_path, "a: " + "x" * stored.MAX_CONFIG_BYTES)
    for content in (b"a: \xff", b"\xff\xfea\0", b"a: \xed\xa0\x80"):
        with pytest.raises(ValueError, match="utf-8"):
            read(tmp_path, content)
    (tmp_path / "config.yaml").rename(tmp_path / "other")
    for make in (lambda p: p.symlink_to("other"), os.mkfifo, Path.mkdir):
        make(tmp_path / "config.yaml")
        with pytest.raises(OSError, match=r"link|FIFO|folder|symbolic"):
            read_config(tmp_path)
        (tmp_path / "config.yaml").rename(tmp_path / f"moved {make}")
