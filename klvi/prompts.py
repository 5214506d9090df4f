"""Prompts: the texts that completions go on from."""

from __future__ import annotations

import json
from pathlib import Path

from klvi.config import schema
from klvi.contexts import Context
from klvi.errors import UserError


def load_contexts(config: schema.Prompts) -> list[Context]:
    """A context per prompt, numbered from 0; a single empty one stands for no prompts.

    Blank lines of a file are skipped.

    Raises `UserError` for a file that is missing, empty or not what it should be.
    """
    if isinstance(config, schema.NoPrompts):
        return [Context(0)]
    if config.path is None:
        raise UserError("prompts.path is missing: give a file of texts or JSON lines")
    lines = _read_lines(config.path)
    if Path(config.path).suffix == ".jsonl":
        prompts = [_field(line, config.field, f"{config.path}:{number}") for number, line in lines]
    else:
        prompts = [line for _, line in lines]
    return [Context(row, prompt) for row, prompt in enumerate(prompts)]


def _read_lines(path: str) -> list[tuple[int, str]]:
    try:
        content = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"prompts.path={path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts.path={path}: not a readable text file: {error}") from error
    # `splitlines` would also part a prompt at its form feeds and Unicode separators.
    lines = [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"prompts.path={path} is empty: give at least one prompt")
    return lines


def _field(line: str, field: str, place: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not a JSON object: {error.msg}") from error
    if not isinstance(record, dict):
        raise UserError(f"{place}: not a JSON object")
    if field not in record:
        known = ", ".join(record) or "none"
        raise UserError(f"{place}: no field {field!r} (it has: {known}); set prompts.field")
    if not isinstance(record[field], str):
        raise UserError(f"{place}: field {field!r} is not a text")
    return str(record[field])
