"""Composition by Hydra: where the YAML files are, and the way to the typed configuration."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from klvi.commands.schema import EnvConfig, ExportConfig, ResumeConfig
from klvi.config.rules import broken_rules, flat
from klvi.config.validation import spelled, validate
from klvi.errors import UserError
from klvi.policy.schema import name_of_path
from klvi.pretraining.schema import PretrainConfig
from klvi.runs.schema import EvalConfig, SampleConfig, TrainConfig
from klvi.verification.schema import VerifyConfig

VERSION_BASE = "1.3"
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)
CONF_DIRECTORY = Path(str(importlib.resources.files("klvi.conf"))).resolve()
SCHEMAS: dict[str, type[BaseModel]] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "sample": SampleConfig,
    "resume": ResumeConfig,
    "export": ExportConfig,
    "pretrain": PretrainConfig,
    "verify": VerifyConfig,
    "env": EnvConfig,
}
# Commands that take a run's policy, or a prior alone.
OF_A_RUN = ("eval", "sample", "export")


@cache
def run_id() -> str:
    """A short random name, the same throughout a process: runs of one second do not collide."""
    return secrets.token_hex(3)


def _sweep_name(*, _root_: DictConfig) -> str:
    """The `name` the user gave, else "sweep": the default follows the objective, which may vary."""
    return "sweep" if OmegaConf.is_interpolation(_root_, "name") else str(_root_.name)


def _groups(*names: str, _root_: DictConfig) -> str:
    """A line per config group: its choices, and in brackets the present one, for the help."""
    loader = GlobalHydra.instance().config_loader()
    chosen = _root_.hydra.runtime.choices
    lines = []
    for name in names:
        choices = ", ".join(loader.get_group_options(name, ObjectType.CONFIG))
        lines.append(f"  {name:<24}{choices}  [{spelled(chosen.get(name))}]")
    return "\n".join(lines)


def _model_name(*, _parent_: DictConfig) -> str:
    """What a model without a name of its own is called: by its path."""
    known = not OmegaConf.is_missing(_parent_, "path")
    path = _parent_.get("path") if known else None
    return name_of_path(None if path is None else str(path))


OmegaConf.register_new_resolver("klvi.model_name", _model_name, replace=True)
OmegaConf.register_new_resolver("klvi.id", run_id, replace=True, use_cache=True)
OmegaConf.register_new_resolver("klvi.sweep_name", _sweep_name, replace=True)
OmegaConf.register_new_resolver("klvi.groups", _groups, replace=True)


@dataclass(frozen=True)
class Composer:
    """Composes a command's configuration as Hydra will, without running anything."""

    hydra: Hydra
    config_name: str

    def compose(self, overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> DictConfig:
        """The composed configuration, the `hydra` node included, for reading.

        Raises `COMPOSITION_ERRORS`; `one_line` tells them.
        """
        return _compose(self, tuple(overrides), mode)

    def groups(self) -> list[str]:
        """The config groups there are, the user's included."""
        return list(self.hydra.config_loader.list_groups(""))

    def is_group(self, key: str) -> bool:
        """Whether an override of `key` chooses a file."""
        return key != "hydra" and bool(self.choices(key))

    def choices(self, group: str) -> list[str]:
        """The choices of a group."""
        return _choices(self, group)


@lru_cache
def _choices(composer: Composer, group: str) -> list[str]:
    return list(composer.hydra.config_loader.get_group_options(group, ObjectType.CONFIG))


@lru_cache(maxsize=8)
def _compose(composer: Composer, overrides: tuple[str, ...], mode: RunMode) -> DictConfig:
    """The checks come back to the same overrides, and composing takes a tenth of a second."""
    cfg: DictConfig = composer.hydra.compose_config(
        config_name=composer.config_name, overrides=list(overrides), run_mode=mode
    )
    return cfg


@contextlib.contextmanager
def composer(config_name: str, config_directory: str | None = None) -> Iterator[Composer]:
    """A composer over klvi's YAML files, and the user's in `config_directory`."""
    version.setbase(VERSION_BASE)
    search_path = create_config_search_path(str(CONF_DIRECTORY))
    if config_directory is not None:
        # The place where Hydra itself puts `--config-dir`.
        search_path.prepend(
            "command-line",
            f"file://{os.path.abspath(config_directory)}",
            SearchPathQuery(provider="schema"),
        )
    try:
        yield Composer(Hydra.create_main_hydra2("klvi", search_path), config_name)
    finally:
        GlobalHydra.instance().clear()


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
        return [_interpolation_problem(error)]
    missing = [f"{key}: is missing" for key, value in flat(raw) if value == "???"]
    if missing:
        return missing
    validated = validate(SCHEMAS[command], raw)
    return [*validated.problems, *broken_rules(command, raw, validated.wrong)]


def _interpolation_problem(error: OmegaConfBaseException) -> str:
    return f"{error.full_key}: {str(error).splitlines()[0]}"


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration without the `hydra` node; `???` where a value is missing.

    Raises OmegaConf's InterpolationResolutionError.
    """
    job = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    container = OmegaConf.to_container(job, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def relevant(command: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a model's YAML sets for training, where the command trains nothing."""
    others = set(TrainConfig.model_fields) - set(SCHEMAS[command].model_fields)
    return {key: value for key, value in raw.items() if key not in others}
