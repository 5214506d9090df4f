"""Between texts and tokens: prompts encoded, chats laid out, completions read after their prompts.

The tokenizer's own ways are respected: what it normalises is no loss, and what it writes between
two words is part of the second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from klvi.contexts import Context
from klvi.errors import UserError, first_line

# Of a prompt, so many tokens at its end tell how a completion reads after it: the bytes of a
# character, the word that is gone on with, and special tokens, which are not read.
TAIL = 16
# What a decoder writes for bytes that are no character.
REPLACEMENT = "\ufffd"
# No text that means something has it; a tokenizer without bytes has no token for it.
UNSEEN = "\U0010fffd"
MAX_QUOTE = 80
# An argument of laying out, not of a template.
CONTINUE = "continue_final_message"


def texts_after(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
) -> list[str]:
    """The texts of N completions as each reads after the end of its prompt; no special tokens.

    Alone, a completion would lose its leading space with some tokenizers, and its first character
    where that began in the prompt. After a prompt without text it is decoded alone.
    """
    special = set(tokenizer.all_special_ids)
    tails = [tuple(token for token in prompt if token not in special) for prompt in prompts]
    distinct = [list(tail) for tail in dict.fromkeys(tails) if tail]
    before = dict(zip(map(tuple, distinct), _decoded(tokenizer, distinct), strict=True)) | {(): ""}
    pairs = zip(tails, completions, strict=True)
    whole = _decoded(tokenizer, [[*tail, *completion] for tail, completion in pairs])
    if not distinct:
        return whole
    return [_rest(before[tail], text) for tail, text in zip(tails, whole, strict=True)]


def _decoded(tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]]) -> list[str]:
    if not rows:
        return []
    texts: list[str] = tokenizer.batch_decode(
        rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts


def _rest(before: str, whole: str) -> str:
    """What `whole` adds to `before`, of which it may have changed the end."""
    # A character whose last bytes are still to come.
    for known in (before, before.rstrip(REPLACEMENT)):
        if whole.startswith(known):
            return whole[len(known) :]
    place = _place_after(before, whole)
    return whole[_place_after_bytes(before, whole) if place is None else place :]


def _place_after_bytes(before: str, whole: str) -> int:
    """Where `whole` differs from `before`, and after what it shows for the bytes of the rest.

    A tokenizer that falls back to bytes shows all of a run of them as broken where one is.
    """
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False))
    place = sum(1 for _ in equal)
    count = sum(1 if c == REPLACEMENT else len(c.encode()) for c in before[place:])
    broken = whole[place : place + count]
    return place + count if broken == REPLACEMENT * count else place


def _place_after(before: str, whole: str) -> int | None:
    """Where `whole` goes on after the letters of `before`, whatever spaces are between them."""
    place = 0
    for character in before:
        if character.isspace():
            continue
        while whole[place : place + 1].isspace():
            place += 1
        if whole[place : place + 1] != character:
            return None
        place += 1
    return place


def encode_text(tokenizer: PreTrainedTokenizerBase, name: str, text: str) -> list[int]:
    """The tokens of a text, without any that the tokenizer would add.

    Raises UserError where the tokenizer of model `name` has no tokens for a part of it.
    """
    if not text:
        return []
    shown = repr(text if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]}…")
    try:
        # Whether it is too long for the model is for `check_length` to say.
        tokens = list(tokenizer.encode(text, add_special_tokens=False, verbose=False))
    except Exception as error:  # tokenizers raise nothing more special where they miss an unknown
        raise UserError(
            f"prompt {shown}: model {name} has no tokens for a part of it ({first_line(error)})"
        ) from error
    whole = tokenizer.decode(tokens, clean_up_tokenization_spaces=False) == text
    lost = "" if whole else _lost(tokenizer, text, tokens)
    if lost:
        raise UserError(f"prompt {shown}: model {name} has no tokens for {lost!r}")
    return tokens


def encode_after(
    tokenizer: PreTrainedTokenizerBase, name: str, before: str, text: str
) -> list[int]:
    """The tokens of a text as it goes on from the tokens of `before`; raises as `encode_text`.

    Where the tokenizer would join its beginning with the end of `before`, those it has alone.
    """
    alone = encode_text(tokenizer, name, text)
    try:
        head, whole = (encode_text(tokenizer, name, part) for part in (before, before + text))
    except UserError:  # of what they are together, or of `before`, which is no text of the user's
        return alone
    follows = len(head) < len(whole) and whole[: len(head)] == head
    return whole[len(head) :] if head and follows else alone


def _lost(tokenizer: PreTrainedTokenizerBase, text: str, tokens: Sequence[int]) -> str:
    """The distinct characters without tokens, in order; else the words that are unknown as such."""
    special = {str(token) for token in tokenizer.all_special_tokens}
    plain = re.sub("|".join(map(re.escape, special)), "", text) if special else text
    dropped = "".join(c for c in dict.fromkeys(plain) if _is_dropped(tokenizer, c))
    unknown = unknown_token(tokenizer)
    if dropped or unknown not in tokens:
        return dropped
    words = [word for word in _words(tokenizer, text, unknown) if word not in special]
    characters = dict.fromkeys("".join(words))
    lost = [c for c in characters if unknown in tokenizer.encode(c, add_special_tokens=False)]
    if 0 < len(lost) < len(characters) or all(len(word) == 1 for word in words):
        return "".join(lost)
    return " ".join(words)


def _is_dropped(tokenizer: PreTrainedTokenizerBase, character: str) -> bool:
    """Whether a character has no tokens, or not all of its bytes; one that is meant to go has."""
    tokens = list(tokenizer.encode(character, add_special_tokens=False))
    if tokens:
        text = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return REPLACEMENT in text and character != REPLACEMENT
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return not character.isspace()
    if backend.normalizer is not None and not backend.normalizer.normalize_str(character).strip():
        return character.isspace() and not _separates(backend, character)
    return not (character.isspace() and _separates(backend, character))


def _separates(backend: Any, space: str) -> bool:
    """Whether a kind of space parts words and is no word itself."""
    text = f"x{space}y"
    text = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
    if backend.pre_tokenizer is None:
        return False
    pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return len(pieces) == len("xy") and pieces[-1] in ("y", "▁y")


def _words(tokenizer: PreTrainedTokenizerBase, text: str, unknown: int | None) -> list[str]:
    """The distinct parts of a text that became the unknown token."""
    if not tokenizer.is_fast:
        return list(dict.fromkeys(text.split()))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    words = (text[start:end].strip() for token, (start, end) in pairs if token == unknown)
    return list(dict.fromkeys(filter(None, words)))


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """What the tokenizer writes for what it does not know; None where it drops it or has bytes."""
    if tokenizer.unk_token_id is not None:
        return int(tokenizer.unk_token_id)
    try:
        tokens = list(tokenizer.encode(UNSEEN, add_special_tokens=False))
    except Exception:  # tokenizers raise nothing more special where they miss an unknown token
        return None
    text = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    known = not tokens or UNSEEN in text or REPLACEMENT in text
    return None if known else int(tokens[-1])


def lay_out(
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    contexts: Sequence[Context],
    arguments: Mapping[str, bool | int | float | str],
) -> list[Context]:
    """The contexts with the text of their messages by the chat template, up to the model's turn.

    `arguments` are for the template, as `enable_thinking` is. A column `tools` is, too.

    Raises UserError where model `name` has no chat template, or it refuses or ignores something.
    """
    if any(context.messages is not None for context in contexts):
        _check_template(tokenizer, name, arguments)
    return [
        context if context.messages is None else _laid_out(tokenizer, name, context, arguments)
        for context in contexts
    ]


def _check_template(
    tokenizer: PreTrainedTokenizerBase, name: str, arguments: Mapping[str, object]
) -> None:
    if not tokenizer.chat_template:
        raise UserError(
            f"prompts.path: it has chat messages, and model {name} has no chat template; "
            "take an instruction-tuned model, or give texts in prompts.field"
        )
    template = str(tokenizer.chat_template)
    for argument in arguments:
        if argument != CONTINUE and not re.search(rf"\b{re.escape(argument)}\b", template):
            raise UserError(
                f"prompts.chat.{argument}: the chat template of model {name} does not use it"
            )


def _laid_out(
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    context: Context,
    arguments: Mapping[str, object],
) -> Context:
    assert context.messages is not None
    goes_on = bool(arguments.get(CONTINUE)) and context.messages[-1]["role"] == "assistant"
    options = {key: value for key, value in arguments.items() if key != CONTINUE}
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in context.messages],
            tools=context.columns.get("tools") or None,
            tokenize=False,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            **options,
        )
    except Exception as error:  # a template may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"prompts.path: row {context.row + 1}: the chat template of model {name} "
            f"refuses its messages: {reason}"
        ) from error
    return replace(context, prompt=str(text))
