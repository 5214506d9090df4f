"""Every number of every configuration is bounded, in a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args, get_origin

import pytest

from klvi.config.values import validate
from klvi.schema import Section

Problems = Callable[..., list[str]]

HUGE = {int: [10**20, -(10**20), 10**5000], float: [1e300, -1e300, 1e-320, 10**400]}


def sections(section: type[Section] = Section) -> Iterator[type[Section]]:
    for below in section.__subclasses__():
        yield below
        yield from sections(below)


def types_of(annotation: Any) -> Iterator[Any]:
    if not get_args(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from types_of(part)


def extremes() -> Iterator[tuple[type[Section], str, object]]:
    for section in sections():
        for key, field in section.model_fields.items():
            kinds = {kind for kind in types_of(field.annotation) if kind in HUGE}
            for value in [value for kind in kinds for value in HUGE[kind]]:
                kind = get_origin(field.annotation)
                yield section, key, {list: [value], dict: {"x": value}}.get(kind, value)


def test_no_number_is_beyond_what_can_be_computed_with() -> None:
    tried = list(extremes())
    assert {"updates", "seed", "chat", "label", "beta", "weight"} <= {key for _, key, _ in tried}
    for section, key, value in tried:
        raw = {"name": "file", key: value} if key == "chat" else {key: value}
        problems = [p for p in validate(section, raw).problems if p.startswith(f"{key}=")]
        assert len(problems) == 1, (section, key, value)
        assert ": must be " in problems[0]
        assert "\n" not in problems[0]


@pytest.mark.parametrize(
    ("command", "override", "line"),
    [
        ("train", f"seed={10**20}", f"seed={10**20}: must be at most 4,294,967,295"),
        (
            "eval",
            "threads=100000",
            "threads=100000: must be a whole number, at least 1 and at most 1,024 or null",
        ),
        ("verify", "beta=1e-320", "beta=1e-320: must be at least 1e-12 and at most 1e+12"),
        (
            "train",
            "+reward.terms.a={weight: -1e300, reward: {name: letters}}",
            "reward.terms.a.weight=-1e+300: must be at least -1e+12 and at most -1e-12",
        ),
    ],
)
def test_a_number_out_of_bounds_is_one_line(
    command: str, override: str, line: str, problems: Problems
) -> None:
    chosen = ["reward=sum"] if "terms" in override else []
    assert line in problems(command, *chosen, override)


def test_a_number_of_more_digits_than_python_reads(problems: Problems) -> None:
    long = "9" * 5000
    (line,) = problems("train", f"seed={long}")
    assert line.startswith(f"seed={long}: cannot be read: Exceeds the limit (4300 digits)")
