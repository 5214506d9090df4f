"""JSON files: an object per line, a single object, or an array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from klvi.errors import UserError
from klvi.prompts.records import Record

# A line that is meant as JSON, also where it is broken, or written with Python's quotes.
JSON_START = re.compile(r"""\s*(\{\s*["'}]|\[\s*[{"']|[\[{]\s*$)""")
WHITESPACE = re.compile(r"[ \t\r\n]*")


def looks_like_json(text: str) -> bool:
    """Whether the text begins as JSON does, or one of its lines is an object."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines or JSON_START.match(lines[0]):
        return bool(lines)
    return any(line.lstrip().startswith('{"') and _is_object(line) for line in lines)


def read_json(path: str, text: str) -> list[Record]:
    """The objects of a JSON text.

    Raises UserError with the line of what is not an object, or has a key twice.
    """
    values = _array(path, text) if text.lstrip().startswith("[") else _lines(path, text)
    records = []
    for line, value in values:
        if not isinstance(value, dict):
            raise UserError(
                f'{path}:{line}: not a JSON object; write prompts as {{"prompt": "TEXT"}}'
            )
        records.append(Record(f"{path}:{line}", value))
    return records


def _lines(path: str, text: str) -> Iterator[tuple[int, Any]]:
    # `splitlines` would also part a text at its form feeds and Unicode separators.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and not _is_object(lines[0][1]) and _is_object(text):
        yield lines[0][0], _parsed(f"{path}:{lines[0][0]}", text)
        return
    for number, line in lines:
        yield number, _parsed(f"{path}:{number}", line)


def _array(path: str, text: str) -> Iterator[tuple[int, Any]]:
    """The elements one by one, so that each has its line."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    position = _skip(text, text.index("[") + 1)
    line, counted = 1, 0
    closed = text[position : position + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{_line(line, counted, error)}: {_reason(error)}") from error
        yield line, value
        position = _skip(text, position)
        closed = text[position : position + 1] == "]"
        if not closed and text[position : position + 1] != ",":
            line += text.count("\n", counted, position)
            raise UserError(f"{path}:{line}: not JSON: a comma or ] is missing in the array")
        position = position if closed else _skip(text, position + 1)
    rest = _skip(text, position + 1)
    if rest < len(text):
        line += text.count("\n", counted, rest)
        raise UserError(f"{path}:{line}: not JSON: there is more after the array")


def _skip(text: str, position: int) -> int:
    found = WHITESPACE.match(text, position)
    assert found is not None
    return found.end()


def _line(line: int, counted: int, error: Exception) -> int:
    """The line of a syntax error in an element that begins at `counted`, on `line`."""
    if not isinstance(error, json.JSONDecodeError):
        return line
    return line + error.doc.count("\n", counted, error.pos)


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: {_reason(error)}") from error


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return values


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "not a JSON object: nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"not a JSON object: {error.msg}"
    return f"not a JSON object: {str(error).split(';')[0]}"
