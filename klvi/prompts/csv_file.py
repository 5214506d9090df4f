"""CSV files: a header of names, then a record per row."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

from klvi.errors import UserError
from klvi.prompts.records import Record

DELIMITERS = (",", ";", "\t")
MAX_CELL = 2**31 - 1
NAME = re.compile(r"[^\W\d][\w ()/.-]{0,39}")
# Numbers that are written in no other way, and that no conversion rounds beyond a float's digits.
WHOLE = re.compile(r"0|-?[1-9]\d{0,4000}")
DECIMAL = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d+)?([eE][+-]?\d+)?")


def has_column(text: str, field: str) -> bool:
    """Whether the first line is a header of several names, `field` among them."""
    return any(field in header and len(header) > 1 for header in _headers(text).values())


def looks_like_csv(text: str, field: str) -> bool:
    """Whether the first line may be a header: `field` alone, or names over rows as wide.

    In prose a space comes after a comma. Quoted cells may be anything.
    """
    quoted = text.startswith('"')
    for delimiter, header in _headers(text).items():
        if header == [field]:
            return True
        first = next(iter(_leniently(text, delimiter)), [])
        named = all(quoted or NAME.fullmatch(cell) for cell in first)
        if len(first) > 1 and named and not any(cell.startswith(" ") for cell in first):
            widths = [len(row) for row in _leniently(text, delimiter)]
            if len(widths) > 1 and min(widths) >= len(first):
                return True
    return False


def _leniently(text: str, delimiter: str) -> list[list[str]]:
    """The rows before the first that is not CSV."""
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):
        rows += (row for _, row in _rows(text, delimiter))
    return rows


def read_csv(path: str, text: str, field: str) -> list[Record]:
    """The rows under the header; the delimiter is a comma, a semicolon or a tab.

    Texts stay as they are written. Other columns whose cells are all numbers hold numbers.

    Raises UserError with the line of a row that has not as many cells as the header.
    """
    headers = _headers(text)
    width = max(len(header) for header in headers.values())
    likely = [d for d, header in headers.items() if field in header]
    delimiter = next(iter(likely or [d for d, h in headers.items() if len(h) == width]))
    header = headers[delimiter]
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UserError(f"{path}:1: the column {twice!r} is there twice")
    rows: list[tuple[int, list[str]]] = []
    try:
        rows += _rows(text, delimiter)
    except csv.Error as error:
        raise UserError(f"{path}:{error}; double the quotes in a cell, and close each") from error
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{path}:{line}: has {len(row)} cells, and the header {len(header)}; "
                f'put "quotes" around texts with {delimiter!r}'
            )
    cells = zip(*(row for _, row in rows[1:]), strict=True)
    columns = {
        name: column if name == field else _numbers(column)
        for name, column in zip(header, cells, strict=False)
    }
    return [
        Record(f"{path}:{line}", {name: column[row] for name, column in columns.items()})
        for row, (line, _) in enumerate(rows[1:])
    ]


def _headers(text: str) -> dict[str, list[str]]:
    """The names of the first row by delimiter."""
    headers = {}
    for delimiter in DELIMITERS:
        try:
            first = next(_rows(text, delimiter), (1, []))[1]
        except csv.Error:
            first = []
        headers[delimiter] = [name.strip() for name in first]
    return headers


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line that it begins on.

    Raises csv.Error, with the line.
    """
    before, end = csv.field_size_limit(MAX_CELL), 0
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for row in reader:
            if any(cell.strip() for cell in row):
                yield end + 1, row
            end = reader.line_num
    except csv.Error as error:
        raise csv.Error(f"{end + 1}: not CSV: {error}") from error
    finally:
        csv.field_size_limit(before)


def _numbers(cells: Sequence[str]) -> Sequence[Any]:
    """Numbers where every cell is written as one, such as 42 but not 007."""
    if all(map(WHOLE.fullmatch, cells)):
        return [int(cell) for cell in cells]
    if "-0" in cells or not all(map(DECIMAL.fullmatch, cells)):
        return cells
    return [float(cell) for cell in cells]
