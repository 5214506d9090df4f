"""The command line: flags in any place, overrides as they were typed, a sweep's combinations."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from pydantic import BaseModel

from klvi.config.compose import Composer
from klvi.config.keys import free_keys, spelled
from klvi.errors import UserError, first_line
from klvi.spelling import suggestion

# klvi's own flags; all others are Hydra's, and handed on.
OWN = ("dry_run", "config_dir", "json")

# How Hydra has a group left out.
LEFT_OUT = {"gold=null": "~gold"}


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("overrides", nargs="*")
    for long, short in (
        ("--help", "-h"),
        ("--hydra-help", None),
        ("--resolve", None),
        ("--run", "-r"),
        ("--multirun", "-m"),
        ("--shell-completion", "-sc"),
        ("--dry-run", None),
        ("--json", None),
    ):
        parser.add_argument(*filter(None, (long, short)), action="store_true")
    for long, short in (
        ("--package", "-p"),
        ("--config-path", "-cp"),
        ("--config-name", "-cn"),
        ("--config-dir", "-cd"),
        ("--experimental-rerun", None),
    ):
        parser.add_argument(*filter(None, (long, short)))
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    info = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    parser.add_argument("--info", "-i", const="all", nargs="?", choices=info)
    return parser


def parse(arguments: Sequence[str]) -> CommandLine:
    """Split flags from words.

    Raises UserError with a line for each flag that does not exist or lacks its value.
    """
    parser = _parser()
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
        if action.dest in OWN:
            continue
        if value is True:
            flags.append(action.option_strings[0])
        elif isinstance(value, str):
            flags += [action.option_strings[0], value]
    return CommandLine(tuple(map(_spelled_out, options.overrides)), options, tuple(flags))


def _spelled_out(word: str) -> str:
    """With the home folder for the ~ that starts a value, as the shell has it for whole words.

    `gold=null`, which Hydra has for no group, is the word that leaves a group out.
    """
    if word in LEFT_OUT:
        return LEFT_OUT[word]
    key, _, value = word.partition("=")
    home = value == "~" or value.startswith("~/")
    return f"{key}={Path.home()}{value[1:]}" if home else word


def parse_overrides(words: Sequence[str], hydra: Composer) -> tuple[list[Override], list[str]]:
    """The overrides that can be read, and a line for each that cannot."""
    parser = OverridesParser.create(config_loader=hydra.loader)
    overrides, problems = [], []
    for word in words:
        try:
            (override,) = parser.parse_overrides([word])
        except HydraException:
            problems.append(_unreadable(word, hydra))
        except ValueError as error:  # a number of more digits than Python reads
            problems.append(f"{word}: cannot be read: {first_line(error)}")
        else:
            if override.key_or_group:
                overrides.append(override)
            else:
                problems.append(f"{word}: not key=value")
    return overrides, problems


def with_free_keys(words: Sequence[str], schema: type[BaseModel]) -> list[str]:
    """The overrides so that Hydra lets values be set whose names are the user's own.

    `prompts.chat.enable_thinking=false` is then as good as `++prompts.chat.enable_thinking=false`.
    """
    free = tuple(f"{key}." for key in free_keys(schema))
    return [f"++{w}" if w.startswith(free) and "=" in w else w for w in words]


def _unreadable(word: str, hydra: Composer) -> str:
    if "=" in word:
        return (
            f"{word}: cannot be read; put quotes around a value with anything but letters, digits "
            "and .-_/ in it, as in \"reward.text='a, b'\""
        )
    choices = [f"{group}={word}" for group in hydra.groups() if word in hydra.choices(group)]
    return f"{word}: not key=value" + (f"; did you mean {choices[0]}?" if choices else "")


@dataclass(frozen=True)
class Sweep:
    """What a multirun does; `values` holds for each key the overrides it takes in turn."""

    values: Mapping[str, Sequence[str]]

    def jobs(self) -> list[list[str]]:
        """The overrides of every job, in the order of Hydra's basic sweeper."""
        return [list(job) for job in itertools.product(*self.values.values())]

    def varying(self) -> list[dict[str, str]]:
        """Of every job the keys that vary, and their values."""
        varying = [values for values in self.values.values() if len(values) > 1]
        return [dict(_parts(override) for override in job) for job in itertools.product(*varying)]

    def sample(self, most: int) -> list[list[str]]:
        """All jobs; of more than `most`, each value once, beside the others' first values."""
        if math.prod(len(values) for values in self.values.values()) <= most:
            return self.jobs()
        first = {key: values[0] for key, values in self.values.items()}
        alternatives = [
            {**first, key: value}
            for key, values in self.values.items()
            for value in values
            if len(values) > 1
        ]
        return [list(job.values()) for job in alternatives]


def _parts(override: str) -> tuple[str, str]:
    """Key and value, the value without Hydra's quotes and escapes."""
    parsed = OverridesParser.create().parse_override(override)
    return parsed.key_or_group, spelled(parsed.value())


def sweep_of(overrides: Sequence[Override]) -> Sweep:
    """The sweep of `overrides`; intervals, which need another sweeper, are left out."""
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        elif not override.is_sweep_override():
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
    return Sweep({key: alternatives for key, alternatives in values.items() if alternatives})


def needs_multirun(override: Override) -> str:
    """The line for a sweep in a single run."""
    line = override.input_line or ""
    key = override.get_key_element()
    values = line.partition("=")[2]
    return f"{line}: several values are a sweep, which needs -m; a list is {key}=[{values}]"
