"""Commands to be pasted: values quoted for OmegaConf, Hydra and the shell, in this order."""

from __future__ import annotations

import os
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

PLAIN = re.compile(r"[\w./+@%-]+", re.ASCII)


def command(name: str, **values: str | Path) -> str:
    """A command line of klvi, such as `klvi resume run=…`, to be pasted into a shell."""
    return " ".join(["klvi", name, *(typed(key, value) for key, value in values.items())])


def typed(key: str, value: str | Path) -> str:
    """`key=value` as it is typed in a shell, so that klvi gets `value` as it is."""
    return f"{key}={shell_word(_hydra_word(key, value))}"


def override(key: str, value: str | Path) -> str:
    """`key=value` as Hydra takes it, so that the configuration holds `value` as it is."""
    return f"{key}={_hydra_word(key, value)}"


def literal(text: str) -> str:
    """`text` so that OmegaConf resolves it to itself: nothing in it is an interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def resolved(value: Any) -> Any:
    """An override's value as the configuration will hold it, without keys of its own to refer to.

    Raises OmegaConf's errors where it refers to what there is not.
    """
    return OmegaConf.create({"value": value}).value


def shell_word(word: str) -> str:
    """`word` quoted for the shell where it must be, in a single line of printable characters."""
    if word.isprintable():
        return shlex.quote(word)
    # A terminal does not take control characters, nor bytes that are not text, from the clipboard.
    return "$'" + "".join(map(_ansi_c, word)) + "'"


def _ansi_c(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def _hydra_word(key: str, value: str | Path) -> str:
    text = str(value)
    if isinstance(value, Path) and (text.startswith("~") or text == "???"):
        text = f"./{text}"  # neither the home folder nor OmegaConf's missing value
    if PLAIN.fullmatch(text) and _reads_as_it_is(key, text):
        return text
    quote = Quote.single if '"' in text else Quote.double
    return str(QuotedString(literal(text), quote).with_quotes())


def _reads_as_it_is(key: str, text: str) -> bool:
    """Whether Hydra takes the bare `text` for these characters, not for a number or for null."""
    try:
        value = _parser().parse_override(f"{key}={text}").value()
    except HydraException:
        return False
    return isinstance(value, str) and value == text


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()
