"""What was fitted of a run's target: `target.json` in its folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from klvi.errors import UserError, described
from klvi.files import TARGET, disk_problem, kind_of, read_json, write_whole
from klvi.targets.base import Target


def write_target(target: Target, run: Path) -> None:
    """Write the target's state, with its checksum; nothing for a target without one.

    Raises RunError where the disk refuses it, and UserError where it is not plain data.
    """
    state = target.state()
    if state:
        try:
            _checksum(target.name, state)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"target={target.name}: its state() cannot be kept as JSON: {error}; give finite "
                "numbers, texts, lists and mappings"
            ) from error
        content = {"target": target.name, "state": state, "sha256": _checksum(target.name, state)}
        write_whole(run / TARGET, json.dumps(content, indent=2, allow_nan=False) + "\n")


def restored_target(target: Target, run: Path) -> Target:
    """The target as the run in a folder has fitted it; itself where there is nothing to fit.

    Raises UserError where that is missing, damaged or another target's.
    """
    file = run / TARGET
    try:
        if kind_of(file) is None and not target.samples_to_fit(0):
            return target
        content = read_json(file)
        state = content["state"]
        if content["sha256"] != _checksum(content["target"], state):
            raise UserError(f"run={run}: {TARGET} is damaged (its checksum differs)")
        if content["target"] != target.name:
            raise UserError(f"run={run}: {TARGET} is of target={content['target']}")
        return target.with_state(state)
    except FileNotFoundError as error:
        raise UserError(
            f"run={run}: {TARGET} is missing, without which its target is not known"
        ) from error
    except OSError as error:
        raise UserError(f"run={run}: {disk_problem(error, file)}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"run={run}: {TARGET} is damaged ({described(error)})") from error


def _checksum(name: Any, state: Any) -> str:
    text = json.dumps([name, state], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
