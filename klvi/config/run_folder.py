"""A finished or broken-off run as the base of `eval`, `sample` and `export`."""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from klvi.config.compose import CONF_DIRECTORY, SCHEMAS
from klvi.config.rules import run_folder_problem
from klvi.config.schema import TrainConfig
from klvi.config.validation import validate
from klvi.errors import UserError


def store_primary(command: str, run: str, chosen: Set[str]) -> str:
    """Give Hydra a primary config in which the run's values replace the command's defaults.

    The user's overrides then apply to the run's configuration as they would to any other. Groups in
    `chosen` are chosen anew on the command line: nothing of the run's remains in them. Returns the
    config's name; raises UserError where `run` is not the folder of a run.
    """
    base = _load(CONF_DIRECTORY / f"{command}.yaml")
    stored = run_config(Path(run).expanduser())
    kept = {
        key: value
        for key, value in stored.items()
        if key in SCHEMAS[command].model_fields and key not in chosen
    }
    defaults = [_without_choice(entry, kept) for entry in base.pop("defaults")]
    name = f"{command}_of_run"
    ConfigStore.instance().store(name=name, node={"defaults": defaults, **base, **kept})
    return name


def run_config(folder: Path) -> dict[str, Any]:
    """What `config.yaml` of a run holds, a valid `TrainConfig`.

    Raises UserError where `folder` is not the folder of a run, or the file is broken.
    """
    problem = run_folder_problem(folder)
    if problem:
        raise UserError(f"run={folder}: {problem}")
    try:
        stored = _load(folder / "config.yaml")
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"run={folder}: its config.yaml is broken: {reason}") from error
    wrong = validate(TrainConfig, stored).problems
    if wrong:
        raise UserError(*(f"run={folder}: its config.yaml: {problem}" for problem in wrong))
    return stored


def is_finished(folder: Path) -> bool:
    """Whether a run has come to its end; one that goes on keeps its adapter until it has another.

    The summary is the last that a run writes, and the first that it takes away when it goes on.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    finished = isinstance(summary, dict) and summary.get("status") == "finished"
    return finished and (folder / "adapter").exists()


def updates_saved(folder: Path) -> int:
    """The updates of a run's newest checkpoint; 0 without one."""
    names = [path.name.removeprefix("step-") for path in (folder / "checkpoints").glob("step-*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _load(file: Path) -> dict[str, Any]:
    container = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    if not isinstance(container, dict):
        raise ValueError("not a mapping of keys to values")
    return {str(key): value for key, value in container.items()}


def _without_choice(entry: Any, kept: dict[str, Any]) -> Any:
    group = next(iter(entry)) if isinstance(entry, dict) else None
    return {group: None} if group in kept else entry
