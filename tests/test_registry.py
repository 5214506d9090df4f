"""What a package that adds to klvi can get wrong is told in a line that names it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Literal

import pytest

from klvi import registry
from klvi.errors import UserError
from klvi.registry import build, has_no_file, members
from klvi.schema import Choice

HERE = __name__
GIVEN = {"reward": 1, "beta": 0.1}


class Group(Choice):
    group_name = "target"


class Nameless(Group):
    builds = f"{HERE}:made"


class Unbuilt(Group):
    name: Literal["unbuilt"]


class Mine(Group):
    builds = f"{HERE}:made"
    name: Literal["mine"] = "mine"
    mean: float = 0.5


class Clashing(Mine):
    beta: float = 1.0


def made(reward: int, beta: float, mean: float) -> tuple[int, float, float]:
    return reward, beta, mean


def needs_more(reward: int, mean: float, missing: int) -> None: ...


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Entry points of what stands above, of which none is klvi's own."""
    sections = {"nameless": "Nameless", "unbuilt": "Unbuilt", "mine": "Mine"}

    def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
        found = [EntryPoint(key, f"{HERE}:{value}", group) for key, value in sections.items()]
        return [point for point in found if name in (None, point.name)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    monkeypatch.setattr(registry, "_below", lambda base: ())
    members.cache_clear()
    yield
    members.cache_clear()


def test_a_section_that_is_not_whole_is_left_out(
    points: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert members(Group) == [Mine]
    nameless, unbuilt = capsys.readouterr().err.splitlines()
    assert f'nameless = {HERE}:Nameless is left out: it has no name: Literal["…"]' in nameless
    assert f"unbuilt = {HERE}:Unbuilt is left out: it does not say what it builds" in unbuilt


def test_a_member_without_its_file_names_what_is_missing(points: None) -> None:
    lacking = has_no_file("target", "mine")
    assert lacking is not None
    assert lacking.startswith(f"{HERE}:Mine has no target/mine.yaml in a folder")
    assert has_no_file("target", "other") is None


@pytest.mark.parametrize(
    ("section", "builds", "line"),
    [
        (Mine, "no_such_module:made", "target=mine: its section builds no_such_module:made, which"),
        (Mine, f"{HERE}:Missing.made", "has no attribute 'Missing'"),
        (Mine, f"{HERE}:needs_more", "missing a required argument: 'missing'"),
        (Clashing, f"{HERE}:made", "(mean, beta) and what klvi gives (reward, beta)"),
    ],
)
def test_what_cannot_be_built_names_section_and_reason(
    section: type[Mine], builds: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build(Mine(), **GIVEN) == (1, 0.1, 0.5)
    monkeypatch.setattr(section, "builds", builds)
    with pytest.raises(UserError, match=re.escape(line)):
        build(section(), **GIVEN)
