"""Overrides as the user typed them: parsed one by one, and a sweep's combinations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from klvi.config.compose import Composer

MOST_COMBINATIONS = 100


def parse_overrides(words: Sequence[str], hydra: Composer) -> tuple[list[Override], list[str]]:
    """The overrides that can be read, and a line for each that cannot."""
    parser = OverridesParser.create(config_loader=hydra.hydra.config_loader)
    overrides, problems = [], []
    for word in words:
        try:
            overrides.append(parser.parse_override(word))
        except HydraException:
            problems.append(_unreadable(word, hydra))
    return overrides, problems


def _unreadable(word: str, hydra: Composer) -> str:
    if "=" in word:
        return (
            f"{word}: cannot be read; put quotes around a value with one of ,:=()[]{{}} or a quote "
            "in it, as in \"reward.text='a, b'\""
        )
    choices = [f"{group}={word}" for group in hydra.groups if word in hydra.choices(group)]
    return f"{word}: not key=value" + (f"; did you mean {choices[0]}?" if choices else "")


def combinations(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """The overrides of every job of a multirun, as Hydra's basic sweeper makes them.

    Of more than `MOST_COMBINATIONS`, each value once, beside the first values of the others.
    """
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        elif not override.is_sweep_override():
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
    if math.prod(len(alternatives) for alternatives in values.values()) <= MOST_COMBINATIONS:
        yield from map(list, itertools.product(*values.values()))
        return
    first = {key: alternatives[0] for key, alternatives in values.items() if alternatives}
    for key, alternatives in values.items():
        for value in alternatives if len(alternatives) > 1 else []:
            yield list((first | {key: value}).values())


def needs_multirun(override: Override) -> str:
    """The line for a sweep in a single run."""
    line = override.input_line or ""
    key = override.get_key_element()
    values = line.partition("=")[2]
    return f"{line}: several values are a sweep, which needs -m; a list is {key}=[{values}]"
