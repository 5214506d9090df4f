"""The keys of overrides: whether they exist for a command, and may be set in that way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel

from klvi.config.compose import COMPOSITION_ERRORS, OF_A_RUN, SCHEMAS, Composer
from klvi.config.keys import is_key, keys, names_of, sections_of
from klvi.config.validation import spelled, unknown_key
from klvi.spelling import suggestion


@dataclass(frozen=True)
class KeyCheck:
    """Checks overrides against a composed configuration, `base`, with the same choices of files.

    Attributes:
        own_groups: the config groups that the command has.
        choices: the overrides that choose files.
    """

    command: str
    hydra: Composer
    own_groups: Sequence[str]
    base: DictConfig
    choices: Sequence[Override]

    def problem(self, override: Override) -> str | None:
        """A line for what is wrong with the key of an override; None where nothing is."""
        key = override.key_or_group
        if self.hydra.is_group(key) or override.is_delete():
            return None
        if key == "hydra" or key.startswith("hydra."):
            return self._hydra_problem(override)
        if self.command in OF_A_RUN and key.split(".")[0] == "lora":
            return f"{override.input_line}: klvi {self.command} takes the LoRA of the run"
        schema = SCHEMAS[self.command]
        raw: Any = OmegaConf.to_container(self.base, resolve=False)
        if not is_key(schema, raw, key):
            groups = (group for group in self.own_groups if not group.startswith("hydra/"))
            return unknown_key(key, schema, raw, *groups)
        return _value_problem(override, schema, raw) or self._addition_problem(override)

    def _hydra_problem(self, override: Override) -> str | None:
        key = override.key_or_group
        if key == "hydra.sweep.subdir":
            return f"{override.input_line}: klvi numbers the jobs of a sweep"
        known = list(_dotted(OmegaConf.to_container(self.base.hydra, resolve=False), "hydra"))
        if key in known or override.is_add() or override.is_force_add():
            return None
        return f"{key}: unknown key of Hydra{suggestion(key, known)}"

    def _addition_problem(self, override: Override) -> str | None:
        if not override.is_add():
            return None
        try:
            before = self.hydra.compose([o.input_line or "" for o in self.choices])
        except COMPOSITION_ERRORS:
            return None
        if OmegaConf.select(before, override.key_or_group) is None:
            return None
        return f"{override.input_line}: has a value already; write it without the +"


def _value_problem(override: Override, schema: type[BaseModel], raw: Any) -> str | None:
    key, value = override.key_or_group, override.value()
    group, _, last = key.rpartition(".")
    if last == "name" and _is_choice(schema, raw, group, value):
        return f"{override.input_line}: choose with {group}={spelled(value)}"
    below = [other for other in keys(schema, raw) if other.startswith(f"{key}.")]
    if below and not isinstance(value, dict):
        return f"{override.input_line}: is a section; set its keys, as in {below[0]}=VALUE"
    return None


def _is_choice(schema: type[BaseModel], raw: Any, group: str, name: object) -> bool:
    """Whether the `name` of a group tells its choices apart, where it is or would be `name`."""
    field = schema.model_fields.get(group)
    sections = sections_of(field.annotation) if field else []
    names = [known for section in sections for known in names_of(section)]
    free = not all(map(names_of, sections))
    present = raw.get(group) or {}
    return bool(names) and not (free and name not in names and present.get("name") not in names)


def _dotted(value: Any, key: str) -> Iterator[str]:
    yield key
    for name, below in value.items() if isinstance(value, dict) else ():
        yield from _dotted(below, f"{key}.{name}")
