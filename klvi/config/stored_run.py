"""A finished or broken-off run as the base of `eval`, `sample` and `export`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from klvi.config.compose import CONF_DIRECTORY, SCHEMAS, with_defaults
from klvi.config.consistency import run_folder_problem
from klvi.config.hydra_api import store_config
from klvi.config.keys import RENAMED
from klvi.config.values import validate
from klvi.errors import UserError
from klvi.files import MANIFEST, disk_problem, foreign_entry, naming, read_json
from klvi.runs.manifest import other_packages
from klvi.runs.schema import TrainConfig
from klvi.runs.stored import escaped, read_config
from klvi.schema import section_of, unknown_choices


def store_primary(command: str, run: str, chosen: Set[str]) -> str:
    """Give Hydra a primary config in which the run's values replace the command's defaults.

    The user's overrides then apply to the run's configuration as they would to any other. Groups in
    `chosen` are chosen anew on the command line: nothing of the run's remains in them. Returns the
    config's name; raises UserError where `run` is not the folder of a run.
    """
    base = _load(CONF_DIRECTORY / f"{command}.yaml")
    kept = kept_of_run(command, run, chosen)
    filled = with_defaults(SCHEMAS[command], kept)
    defaults = [_without_choice(entry, kept) for entry in base.pop("defaults")]
    name = f"{command}_of_run"
    store_config(name, {"defaults": defaults, **base, **escaped(filled)})
    return name


def kept_of_run(command: str, run: str, chosen: Set[str] = frozenset()) -> dict[str, Any]:
    """The run's values that a command takes, but for the groups in `chosen`."""
    stored = run_config(Path(run).expanduser())
    schema = TrainConfig if command == "resume" else SCHEMAS[command]
    return {key: value for key, value in _known(schema, stored).items() if key not in chosen}


def _known(annotation: Any, values: Any) -> Any:
    """The values of a section without keys that are another command's."""
    section = section_of(annotation, values) if isinstance(values, dict) else None
    if section is None:
        return values
    fields = section.model_fields
    return {k: _known(fields[k].annotation, value) for k, value in values.items() if k in fields}


def run_config(folder: Path) -> dict[str, Any]:
    """What `config.yaml` of a run holds, a valid `TrainConfig`.

    Raises UserError where `folder` is not the folder of a run, holds what klvi does not write, or
    the file is broken.
    """
    with naming(folder, UserError):
        problem = run_folder_problem(folder) or foreign_entry(folder)
    if problem:
        raise UserError(f"run={folder}: {problem}")
    try:
        stored = read_config(folder)
    except OSError as error:
        raise UserError(f"run={folder}: {disk_problem(error)}") from error
    except ValueError as error:
        raise UserError(f"run={folder}: its config.yaml is broken: {error}") from error
    stored = migrated(stored)
    gone = _gone(folder, stored)
    if gone:
        raise UserError(f"run={folder}: {gone}")
    wrong = validate(TrainConfig, stored).problems
    if wrong:
        raise UserError(*(f"run={folder}: its config.yaml: {problem}" for problem in wrong))
    return stored


def _gone(folder: Path, stored: Mapping[str, Any]) -> str | None:
    """What a run chose, and the remedy, where packages are gone that provided it."""
    unknown = list(unknown_choices(TrainConfig, stored))
    try:
        others = other_packages(read_json(folder / MANIFEST)) if unknown else {}
    except (OSError, ValueError):
        return None
    if not others:
        return None
    made = " and ".join(f"{name} {version}" for name, version in others.items())
    lacking = f"no installed package has {' and '.join(unknown)}"
    return f"{lacking}; install {made}, with which the run was made"


def migrated(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration with the keys of earlier versions under their present names."""
    values: dict[str, Any] = copy.deepcopy(dict(stored))
    moved = {
        new: value for old, new in RENAMED.items() if (value := _taken(values, old)) is not None
    }
    if values.get("rollout") == {}:
        del values["rollout"]
    if "proposal" not in values:
        name = moved.setdefault("proposal.name", "policy")
        options = {"prior_share": "mixture", "divergence": "adaptive"}
        for key, owner in options.items():
            if owner != name:
                moved.pop(f"proposal.{key}", None)
    if "engine" not in values:
        moved.setdefault("engine.name", "torch")
    for key, value in moved.items():
        section, _, name = key.rpartition(".")
        below = values.setdefault(section, {}) if section else values
        if isinstance(below, dict):
            below.setdefault(name, value)
    return values


def _taken(values: dict[str, Any], key: str) -> Any:
    """The value of a key of a section, which is taken out; None without one."""
    section, _, name = key.partition(".")
    below = values.get(section)
    return below.pop(name, None) if isinstance(below, dict) else None


def is_finished(folder: Path) -> bool:
    """Whether a run has come to its end; one that goes on keeps its adapter until it has another.

    The summary is the last that a run writes, and the first that it takes away when it goes on.
    """
    try:
        finished = read_json(folder / "summary.json").get("status") == "finished"
    except (OSError, ValueError):
        return False
    return finished and (folder / "adapter").exists()


def _load(file: Path) -> dict[str, Any]:
    container = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    if not isinstance(container, dict):
        raise ValueError("not a mapping of keys to values")
    return {str(key): value for key, value in container.items()}


def _without_choice(entry: Any, kept: dict[str, Any]) -> Any:
    group = next(iter(entry)) if isinstance(entry, dict) else None
    return {group: None} if group in kept else entry
