"""From the records of a file to contexts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from typing import Any, TypeAlias

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.prompts import schema
from klvi.prompts.files import read_records
from klvi.prompts.records import Record

MESSAGES = "messages"

Message: TypeAlias = Mapping[str, Any]


def load_contexts(config: schema.PromptsSection) -> list[Context]:
    """A context per prompt, numbered from 0; a single empty one stands for no prompts.

    A record's prompt is the text, or the list of chat messages, in `prompts.field`; or else its
    `messages`. What else it holds goes into `columns`. Chats have no text yet: `lay_out` gives it.

    Raises `UserError` for a file that is missing, empty or not what it should be.
    """
    if not isinstance(config, schema.FilePrompts):
        return [Context(0)]
    contexts = [_context(row, r, config) for row, r in enumerate(read_records(config))]
    if config.chat and not any(context.messages for context in contexts):
        raise UserError(
            f"prompts.chat: for a chat template, but {config.path} has texts; give `messages`"
        )
    return contexts


def contexts_of_prompts(prompts: Iterable[Any] | None) -> list[Context]:
    """As `load_contexts`, of texts, and of mappings with a `prompt` or `messages`, and columns.

    Raises UserError for anything else.
    """
    if prompts is None:
        return [Context(0)]
    # A set has no order, and a data frame gives the names of its columns.
    wrong = isinstance(prompts, str | bytes | Mapping | Set) or hasattr(prompts, "iterrows")
    listed = [] if wrong or not isinstance(prompts, Iterable) else list(prompts)
    if not listed:
        kind = f"{prompts!r:.60}" if wrong or not isinstance(prompts, Iterable) else "empty"
        raise UserError(f"prompts: is {kind}; give a list of texts, or of dicts with a prompt each")
    columns = schema.FilePrompts.model_construct(name="file", field=_default_field(), chat={})
    contexts = []
    for row, given in enumerate(listed):
        place = f"prompts[{row}]"
        if isinstance(given, Context):
            contexts.append(replace(given, row=row))
            continue
        values = {"prompt": given} if isinstance(given, str) else given
        if not isinstance(values, Mapping) or not {columns.field, MESSAGES} & set(values):
            raise UserError(
                f"{place}: is {given!r:.60}; give a text, or a dict with a prompt or messages"
            )
        contexts.append(_context(row, Record(place, values), columns))
    return contexts


def _context(row: int, record: Record, config: schema.FilePrompts) -> Context:
    field, values = config.field, record.values
    for name, value in values.items():
        _check_characters(record.place, name, value)
    if field not in values and MESSAGES in values and field == _default_field():
        field = MESSAGES
    if field not in values:
        known = ", ".join(values) or "none"
        raise UserError(f"{record.place}: no field {field!r} (it has: {known}); set prompts.field")
    value = values[field]
    columns = {name: other for name, other in values.items() if name != field}
    if isinstance(value, str):
        return Context(row, value, columns)
    if not isinstance(value, list):
        raise UserError(f"{record.place}: field {field!r} is not a text, nor a list of messages")
    messages = [_message(f"{record.place}: field {field!r}", item) for item in value]
    _check_end(f"{record.place}: field {field!r}", messages, config.chat)
    return Context(row, columns={**columns, MESSAGES: messages}, messages=messages)


def _default_field() -> str:
    return str(schema.FilePrompts.model_fields["field"].default)


def _check_characters(place: str, field: str, value: object) -> None:
    try:
        json.dumps([field, value], ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: field {field!r} has half of a surrogate pair, which is no character"
        ) from error
    except RecursionError as error:
        raise UserError(f"{place}: field {field!r} is nested too deeply") from error


def _message(place: str, item: object) -> Message:
    if not isinstance(item, Mapping):
        raise UserError(
            f"{place} is not a text, nor a list of messages with role and content; give one JSON "
            "object per prompt"
        )
    # Tables have every key in every row.
    message = {key: value for key, value in item.items() if value is not None}
    content = message.get("content", [] if "tool_calls" in message else None)
    if not isinstance(message.get("role"), str) or not isinstance(content, str | list):
        known = ", ".join(message) or "none"
        raise UserError(f"{place}: a message needs role and content (it has: {known})")
    return message


def _check_end(place: str, messages: list[Message], chat: Mapping[str, object]) -> None:
    if not messages:
        raise UserError(f"{place} has no message: give at least the user's")
    if messages[-1]["role"] == "assistant" and not chat.get("continue_final_message"):
        raise UserError(
            f"{place} ends with the assistant's message: end it with the user's, "
            "or have it continued with prompts.chat.continue_final_message=true"
        )
