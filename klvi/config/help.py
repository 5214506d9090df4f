"""What `--help` prints of a command's groups and keys: from the schema, with the present values."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel

from klvi.config.compose import SCHEMAS
from klvi.config.hydra_api import register_resolver
from klvi.config.keys import is_key, spelled
from klvi.schema import section_of

WIDTH, COLUMN = 98, 24


def _groups(*names: str, _root_: DictConfig) -> str:
    """A line per config group: its choices, and in brackets the present one."""
    loader = GlobalHydra.instance().config_loader()
    chosen = _root_.hydra.runtime.choices
    lines = []
    for name in names:
        choices = ", ".join(loader.get_group_options(name, ObjectType.CONFIG))
        lines.append(f"  {name:<{COLUMN}}{choices}  [{spelled(chosen.get(name))}]")
    return "\n".join(lines)


def _keys(command: str, *names: str, _root_: DictConfig) -> str:
    """A paragraph per key: its description, and in brackets the present value."""
    schema = SCHEMAS[command]
    raw: Any = OmegaConf.to_container(_root_, resolve=False)
    lines = []
    for name in names:
        if not is_key(schema, raw, name):
            raise ValueError(f"{command} has no key {name}")
        value = OmegaConf.select(_root_, name, throw_on_missing=False)
        shown = "" if OmegaConf.is_config(value) else f"  [{spelled(value)}]"
        text = textwrap.wrap(f"{description(schema, raw, name)}{shown}", WIDTH - COLUMN - 2)
        text[0] = f"  {name:<{COLUMN - 1}} {text[0]}"
        lines += [text[0], *(" " * (COLUMN + 2) + line for line in text[1:])]
    return "\n".join(lines)


register_resolver("klvi.groups", _groups)
register_resolver("klvi.keys", _keys)


def description(schema: type[BaseModel], raw: Any, key: str) -> str:
    """What a key means, in words."""
    section, value = schema, raw
    *parents, last = key.split(".")
    for name in parents:
        below = section_of(section.model_fields[name].annotation, value.get(name))
        assert below is not None, key
        section, value = below, value.get(name)
    return next((t[last] for s in section.__mro__ if last in (t := _texts(s))), "")


@cache
def _texts(section: type) -> dict[str, str]:
    """The texts below a section's fields, by the fields' names."""
    if not (issubclass(section, BaseModel) and section is not BaseModel):
        return {}
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts
