"""A prompt file's format, told by its content, and its records."""

from __future__ import annotations

import codecs
import errno
import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from klvi.errors import UserError
from klvi.files import MAX_BYTES, read_bytes
from klvi.prompts.csv_file import has_column, looks_like_csv, read_csv
from klvi.prompts.json_file import looks_like_json, read_json
from klvi.prompts.records import Record
from klvi.prompts.schema import FilePrompts

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
LFS_POINTER = "version https://git-lfs.github.com"
SUFFIXES = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv"}
# Text files whose lines are no prompts, where their content does not tell.
OTHER_DATA = {".parquet", ".yaml", ".yml", ".toml", ".xml", ".html"}
ROWS = 256
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Reader: TypeAlias = Callable[[str], list[Record]]


def read_records(config: FilePrompts) -> list[Record]:
    """The records of the prompts' file; a line of plain text is a record with the prompt alone.

    Blank lines are skipped.

    Raises UserError for a file that is missing, empty, or not what it should be, with its line.
    """
    if config.path is None:
        raise UserError("prompts.path is missing: give a file of texts, JSON lines, CSV or Parquet")
    content = _content(config.path)
    if config.format == "parquet" or (config.format == "auto" and content.startswith(PARQUET)):
        records = _parquet(config.path, content)
    else:
        text = _text(config.path, content)
        named = SUFFIXES.get(_suffix(config.path))
        chosen = config.format if config.format != "auto" else _recognised(config, text, named)
        records = _read(config, text, chosen, sure=chosen in (named, config.format))
    if not records:
        raise UserError(f"prompts.path={config.path} is empty: give at least one prompt")
    return records


def _content(path: str) -> bytes:
    try:
        content = read_bytes(Path(path).expanduser().resolve())
        return _decompressed(content) if content.startswith(GZIP) else content
    except FileNotFoundError as error:
        raise UserError(f"prompts.path={path}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f"prompts.path={path}: not a readable text file: {reason}") from error


def _decompressed(content: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"holds more than {MAX_BYTES:,} bytes")
    return text


def _suffix(path: str) -> str:
    return Path(path.lower().removesuffix(".gz")).suffix


def _text(path: str, content: bytes) -> str:
    encoding = "utf-16" if content.startswith(UTF16) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: not a readable text file: {error.reason}; save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"{path}:{line}: not a readable text file: it has a zero byte; "
            "give text, JSON lines, CSV or Parquet"
        )
    return text


def _recognised(config: FilePrompts, text: str, named: str | None) -> str:
    """The format of a text, by its content first, then by the file's name.

    Raises UserError where it would be plain text and looks like something else.
    """
    if looks_like_json(text):
        return "json"
    if named is not None or has_column(text, config.field):
        return named or "csv"
    if text.startswith(LFS_POINTER):
        raise UserError(f"prompts.path={config.path} is a pointer of Git LFS: git lfs pull")
    suffix = _suffix(str(config.path))
    if suffix in OTHER_DATA:
        raise UserError(
            f"prompts.path={config.path}: not read as {suffix[1:]}: give JSON, CSV or Parquet; "
            "prompts.format=text reads a prompt per line"
        )
    if looks_like_csv(text, config.field):
        raise UserError(
            f"prompts.path={config.path} looks like CSV: set prompts.field to the prompt's column "
            "or prompts.format=csv, and prompts.format=text for a prompt per line"
        )
    return "text"


def _read(config: FilePrompts, text: str, chosen: str, *, sure: bool) -> list[Record]:
    """The records in the chosen format; an error says how to choose, where it was a guess."""
    path = str(config.path)
    readers: dict[str, Reader] = {
        "json": lambda text: read_json(path, text),
        "csv": lambda text: read_csv(path, text, config.field),
        "text": lambda text: _lines(config, text),
    }
    try:
        return readers[chosen](text)
    except UserError as error:
        if sure:
            raise
        raise UserError(f"{error}; prompts.format=text reads a prompt per line") from error


def _lines(config: FilePrompts, text: str) -> list[Record]:
    if config.field != type(config).model_fields["field"].default:
        raise UserError(
            f"prompts.field={config.field}: {config.path} is read as plain text, without fields; "
            "leave it out, or set prompts.format"
        )
    # `splitlines` would also part a prompt at its form feeds and Unicode separators.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [
        Record(f"{config.path}:{number}", {config.field: line})
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _parquet(path: str, content: bytes) -> list[Record]:
    import pyarrow.parquet  # takes a quarter of a second, and few need it

    try:
        rows: list[dict[str, Any]] = []
        size = 0
        # A few rows at a time: a small file can hold a large text many times.
        for batch in pyarrow.parquet.ParquetFile(io.BytesIO(content)).iter_batches(ROWS):
            size += batch.nbytes + batch.num_rows
            if size > MAX_BYTES:
                raise ValueError(f"holds more than {MAX_BYTES:,} bytes")
            rows += batch.to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        reason = str(error).splitlines()[0]
        raise UserError(f"prompts.path={path}: not a readable Parquet file: {reason}") from error
    return [Record(f"{path}: row {number}", row) for number, row in enumerate(rows, 1)]
