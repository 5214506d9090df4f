"""The command line: flags in any place, told apart from the command and its overrides."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.utils import get_args_parser

from klvi.errors import UserError
from klvi.spelling import suggestion

DRY_RUN = "--dry-run"


@dataclass(frozen=True)
class CommandLine:
    """What the user typed.

    Attributes:
        words: the command and its overrides, in order, `=~/` with the home folder in it.
        options: flags by name, Hydra's (`multirun`, `cfg`, `config_dir`, …) and `dry_run`.
        flags: Hydra's once more, as it takes them.
    """

    words: tuple[str, ...]
    options: argparse.Namespace
    flags: tuple[str, ...]


def parse(arguments: Sequence[str]) -> CommandLine:
    """Part flags from words.

    Raises UserError with a line for each flag that does not exist or lacks its value.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    parser.add_argument(DRY_RUN, action="store_true")
    try:
        options, unknown = parser.parse_known_intermixed_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(str(error).removeprefix("argument ")) from error
    actions = [action for action in parser._actions if action.option_strings]
    spellings = [spelling for action in actions for spelling in action.option_strings]
    if unknown:
        raise UserError(*(f"{flag}: unknown flag{suggestion(flag, spellings)}" for flag in unknown))
    flags: list[str] = []
    for action in actions:
        value = getattr(options, action.dest, None)
        if DRY_RUN in action.option_strings:  # klvi's own
            continue
        if value is True:
            flags.append(action.option_strings[0])
        elif isinstance(value, str):
            flags += [action.option_strings[0], value]
    return CommandLine(tuple(map(_at_home, options.overrides)), options, tuple(flags))


def _at_home(word: str) -> str:
    """With the home folder for the ~ that starts a value, as the shell has it for whole words."""
    key, _, value = word.partition("=")
    home = value == "~" or value.startswith("~/")
    return f"{key}={Path.home()}{value[1:]}" if home else word
