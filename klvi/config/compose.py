"""Composition by Hydra: where the YAML files are, and the way to the typed configuration."""

from __future__ import annotations

import contextlib
import importlib.resources
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from klvi.commands.schema import EnvConfig, ExportConfig, ResumeConfig, RewardModelConfig
from klvi.config.consistency import broken_rules, flat, unmet_needs
from klvi.config.hydra_api import (
    further_folders,
    initialised,
    read_with,
    register_resolver,
)
from klvi.config.keys import keys, missing
from klvi.config.values import validate
from klvi.errors import UserError
from klvi.policy.schema import name_of_path
from klvi.pretraining.schema import PretrainConfig
from klvi.registry import conf_folders
from klvi.runs.schema import EvalConfig, PreferencesConfig, SampleConfig, TrainConfig
from klvi.schema import named_sections, section_of, sections_of
from klvi.verification.schema import VerifyConfig

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)
CONF_DIRECTORY = Path(str(importlib.resources.files("klvi.conf"))).resolve()
SCHEMAS: dict[str, type[BaseModel]] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "sample": SampleConfig,
    "preferences": PreferencesConfig,
    "reward": RewardModelConfig,
    "resume": ResumeConfig,
    "export": ExportConfig,
    "pretrain": PretrainConfig,
    "verify": VerifyConfig,
    "env": EnvConfig,
}
# Commands that take a run's policy, or a prior alone.
OF_A_RUN = ("eval", "sample", "preferences", "export")
IS_MISSING = ": is missing"
MISSING = "???"  # OmegaConf's


@cache
def run_id() -> str:
    """A short random name, the same throughout a process: runs of one second do not collide."""
    return secrets.token_hex(3)


def _sweep_name(*, _root_: DictConfig) -> str:
    """The `name` the user gave, else "sweep": the default follows the objective, which may vary."""
    return "sweep" if OmegaConf.is_interpolation(_root_, "name") else str(_root_.name)


def _model_name(*, _parent_: DictConfig) -> str:
    """What a model without a name of its own is called: by its path."""
    known = not OmegaConf.is_missing(_parent_, "path")
    path = _parent_.get("path") if known else None
    return name_of_path(None if path is None else str(path))


register_resolver("klvi.model_name", _model_name)
register_resolver("klvi.id", run_id, use_cache=True)
register_resolver("klvi.sweep_name", _sweep_name)


def with_defaults(annotation: Any, raw: Any) -> Any:
    """The values of a section with the defaults of the keys that `raw` leaves out.

    A required key without a value is OmegaConf's `???`; a group that is not chosen stays away.
    """
    named = named_sections(annotation)
    if named is not None and isinstance(raw, Mapping):
        return {key: with_defaults(named, value) for key, value in raw.items()}
    section = section_of(annotation, raw) if isinstance(raw, Mapping) else None
    if section is None:
        return raw
    values = dict(raw)
    for key, field in section.model_fields.items():
        if key in values:
            values[key] = with_defaults(field.annotation, values[key])
        elif not field.is_required():
            default = field.get_default(call_default_factory=True)
            values[key] = default.model_dump() if isinstance(default, BaseModel) else default
        elif len(sections_of(field.annotation)) == 0:
            values[key] = MISSING
    return values


def _filled(path: str, raw: dict[str, Any], is_global: bool) -> dict[str, Any]:
    """The values of a YAML file, its section's defaults in it; other files as they are."""
    group, _, name = path.rpartition("/")
    if not group:
        schema = SCHEMAS.get(name)
        return raw if schema is None else with_defaults(schema, raw)
    annotation = _group_annotation(group)
    if annotation is None:
        return raw
    if is_global:
        below = raw.get(group)
        return raw if below is None else raw | {group: with_defaults(annotation, below)}
    return dict(with_defaults(annotation, raw))


@cache
def _group_annotation(group: str) -> Any:
    """What a config group chooses among; None for a folder of files that are no sections."""
    for schema in SCHEMAS.values():
        field = schema.model_fields.get(group)
        if field is not None and sections_of(field.annotation):
            return field.annotation
    return None


@dataclass(frozen=True)
class Composer:
    """Composes a command's configuration as Hydra will, without running anything."""

    hydra: Any
    config_name: str

    @property
    def loader(self) -> Any:
        """Hydra's own."""
        return self.hydra.config_loader

    def compose(self, overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> DictConfig:
        """The composed configuration, the `hydra` node included, for reading.

        Raises `COMPOSITION_ERRORS`; `one_line` tells them.
        """
        found = _compose(self, tuple(overrides), mode)
        if isinstance(found, Exception):
            raise found
        return found

    def groups(self) -> list[str]:
        """The config groups there are, the user's included."""
        return list(self.loader.list_groups(""))

    def is_group(self, key: str) -> bool:
        """Whether an override of `key` chooses a file."""
        return key != "hydra" and bool(self.choices(key))

    def choices(self, group: str) -> list[str]:
        """The choices of a group."""
        return _choices(self, group)


@lru_cache
def _choices(composer: Composer, group: str) -> list[str]:
    return list(composer.loader.get_group_options(group, ObjectType.CONFIG))


@lru_cache(maxsize=8)
def _compose(
    composer: Composer, overrides: tuple[str, ...], mode: RunMode
) -> DictConfig | Exception:
    """The checks come back to the same overrides, and composing takes a tenth of a second."""
    try:
        cfg: DictConfig = composer.hydra.compose_config(
            config_name=composer.config_name, overrides=list(overrides), run_mode=mode
        )
    except COMPOSITION_ERRORS as error:
        return error
    return cfg


def set_folders(config_directory: str | None) -> None:
    """Let Hydra find klvi's YAML files, those of installed packages, and the user's."""
    read_with(_filled)
    own = [] if config_directory is None else [str(Path(config_directory).absolute())]
    further_folders(*conf_folders(), *own)


@contextlib.contextmanager
def composer(config_name: str, config_directory: str | None = None) -> Iterator[Composer]:
    """A composer over klvi's YAML files, and the user's in `config_directory`."""
    set_folders(config_directory)
    with initialised(CONF_DIRECTORY) as hydra:
        yield Composer(hydra, config_name)


def one_line(error: BaseException) -> str:
    """An error of Hydra's or OmegaConf's, its cause included, without line breaks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines and error.__cause__ is not None:
        return one_line(error.__cause__)
    return " ".join(lines)


def to_config(command: str, cfg: DictConfig) -> BaseModel:
    """The typed configuration of a composed one.

    Raises UserError with a line for each problem.
    """
    problems = problems_of(command, cfg)
    if problems:
        raise UserError(*problems)
    return SCHEMAS[command].model_validate(relevant(command, plain(cfg)))


def problems_of(command: str, cfg: DictConfig) -> list[str]:
    """A line for each problem of a composed configuration."""
    try:
        raw = relevant(command, plain(cfg))
    except OmegaConfBaseException as error:
        return [f"{error.full_key}: {str(error).splitlines()[0]}"]
    schema = SCHEMAS[command]
    fields = keys(schema, raw)
    left_out = [missing(key, fields.get(key)) for key, value in flat(raw) if value == MISSING]
    raw = _without_missing(raw)
    validated = validate(schema, raw)
    given = [problem for problem in validated.problems if IS_MISSING not in problem]
    left_out += [problem for problem in validated.problems if IS_MISSING in problem]
    return [
        *given,
        *dict.fromkeys(left_out),
        *unmet_needs(schema, raw),
        *broken_rules(command, raw, validated.wrong),
    ]


def _without_missing(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_missing(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value != MISSING
    }


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration without the `hydra` node; `???` where a value is missing.

    Raises OmegaConf's InterpolationResolutionError.
    """
    job = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    container = OmegaConf.to_container(job, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def relevant(command: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a model's YAML sets for other commands."""
    own = SCHEMAS[command].model_fields
    others = {key for schema in SCHEMAS.values() for key in schema.model_fields} - set(own)
    return {key: value for key, value in raw.items() if key not in others}
