from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import model_validator

from klvi.config.compose import SCHEMAS
from klvi.config.consistency import unmet_needs
from klvi.config.values import validate
from klvi.policy.schema import ModelConfig
from klvi.rewards.schema import PythonReward
from klvi.schema import LOCATIONS, Choice, Code, Names, Need, RemoteCode, Section, Source, named_in


def test_what_is_read_is_named_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "score.py").touch()
    (tmp_path / "prior").mkdir()
    reward = PythonReward(name="python", function="score.py:score")
    assert reward.function == f"{tmp_path}/score.py:score"
    assert ModelConfig(name="mine", path="./prior").path == f"{tmp_path}/prior"


def test_a_hub_id_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ModelConfig(name="gpt2", path="openai-community/gpt2").path == "openai-community/gpt2"


def test_every_place_of_a_users_is_known_as_one() -> None:
    found = {
        name
        for config in SCHEMAS.values()
        for name, field in config.model_fields.items()
        if "expanduser" in f"{field.annotation}{field.metadata}"
    }
    assert found == set(LOCATIONS)


class Thing(Choice):
    group_name = "thing"
    reaches: ClassVar[Names | None] = Names("a service", "service")


class Part(Section):
    things: dict[str, Thing]


class Judge(Thing):
    """What a package could declare, with a key of its own name."""

    name: Literal["judge"]
    judge: int = 1
    path: Source | None = None
    code: Code | None = None
    trusted: RemoteCode = False
    files: list[Source] | None = None
    by_name: dict[str, Source] | None = None
    sections: list[Part] | None = None


class Pair(Thing):
    reaches: ClassVar[Names | None] = None
    name: Literal["pair"]
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> Pair:
        if self.low > self.high:
            raise ValueError("low is above high; exchange them")
        return self


class Idle(Thing):
    reaches: ClassVar[Names | None] = None
    name: Literal["idle"]


class Whole(Section):
    thing: Thing


RAW = {
    "name": "judge",
    "path": "a",
    "code": "b.py:f",
    "trusted": True,
    "files": ["c", "d"],
    "by_name": {"x": "e"},
    "sections": [{"things": {"y": {"name": "judge", "path": "f"}}}, {"things": {}}],
}


def test_what_fields_name_is_found_at_any_depth() -> None:
    found = {".".join(each.keys): each for each in named_in(Whole, {"thing": RAW})}
    assert {key: each.value for key, each in found.items()} == {
        "thing.name": "judge",
        "thing.path": "a",
        "thing.code": "b.py:f",
        "thing.trusted": True,
        "thing.files.0": "c",
        "thing.files.1": "d",
        "thing.by_name.x": "e",
        "thing.sections.0.things.y.name": "judge",
        "thing.sections.0.things.y.path": "f",
    }
    assert found["thing.name"].names.beside == tuple(RAW)[1:]
    assert found["thing.trusted"].section == RAW


@pytest.mark.parametrize(
    "raw",
    [
        {"thing": {"name": "idle", "path": "a"}},
        {"thing": {"name": "gone", "path": "a"}},
        {"thing": {"path": "a"}},
        {"thing": ["a"]},
        {"thing": "a"},
        {},
    ],
)
def test_what_no_section_reads_names_nothing(raw: dict[str, object]) -> None:
    assert list(named_in(Whole, raw)) == []


def test_a_key_with_the_name_of_its_choice_is_told_by_its_own_name() -> None:
    raw = {"thing": {"name": "judge", "judge": "x", "trusted": 3}}
    assert validate(Whole, raw).wrong == {"thing.judge", "thing.trusted"}


def test_what_a_section_says_of_its_keys_together_is_told() -> None:
    raw = {"thing": {"name": "pair", "low": 2, "high": 1}}
    assert validate(Whole, raw).problems == ("thing: low is above high; exchange them",)


class Lamp(Choice):
    group_name = "lamp"


class SwitchedLamp(Lamp):
    name: Literal["switched"]
    on: bool = False

    @classmethod
    def capabilities(cls, values: Mapping[str, Any]) -> frozenset[str]:
        return frozenset({"light"} if values.get("on") else ())


class Eye(Choice):
    group_name = "eye"


class HumanEye(Eye):
    needs = (Need("lamp", "light", "it is dark"), Need("lamp", "colour", "it is grey"))
    name: Literal["human"]


class Room(Section):
    lamp: SwitchedLamp
    eye: HumanEye


@pytest.mark.parametrize(("on", "why"), [(False, "it is dark"), (True, "it is grey")])
def test_what_a_choice_provides_may_depend_on_its_keys(on: bool, why: str) -> None:
    raw = {"lamp": {"name": "switched", "on": on}, "eye": {"name": "human"}}
    assert list(unmet_needs(Room, raw)) == [f"eye=human with lamp=switched: {why}"]
