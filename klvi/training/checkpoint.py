"""Checkpoints: everything a resume needs, written so that a kill at any moment loses nothing."""

from __future__ import annotations

import copy
import io
import math
import pickle
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from klvi.errors import UserError, described
from klvi.files import (
    MANIFEST,
    disk_problem,
    kind_of,
    names_in,
    read_bytes,
    room_problem,
    whole_folder,
)
from klvi.files.checksums import MAX_BYTES, damage, write_checksums
from klvi.policy.fingerprint import OtherPriorError
from klvi.terminal import tell
from klvi.training.loop import Loop

STATE = "state.pt"


@dataclass(frozen=True)
class Checkpoints:
    """The folders `step-N` of a run, one every `every` updates, of which the newest `keep` stay.

    A checkpoint is built in a hidden folder and renamed when it is whole: a folder with the name
    `step-N` was complete, and its checksums tell whether it still is. Random states need no saving:
    every random number of an update depends on the seed and the update's number alone.
    """

    directory: Path
    every: int = 1
    keep: int = 2

    def save(self, loop: Loop) -> Path:
        """Write the loop's state after its last update; returns the folder.

        Raises RunError where the disk refuses it, and UserError where an objective or a proposal
        keeps what cannot be written: the older checkpoints are intact.
        """
        final = self.directory / f"step-{loop.update}"
        if kind_of(final) is not None and self._damage(final) is None:
            return final
        for keeper in (loop.objective, loop.proposal):
            _check_plain(keeper, keeper.state_dict())
        with whole_folder(final, replace=True) as building:
            loop.policy.save_adapter(building)
            with (building / STATE).open("wb") as file:  # of which torch tells what the disk says
                torch.save(_state(loop), file)
            write_checksums(building)
        for old in self.steps(loop.update)[: -self.keep]:
            shutil.rmtree(self.directory / f"step-{old}", ignore_errors=True)
        return final

    def check_room(self, loop: Loop, *, best: bool = False) -> None:
        """Raises UserError where the checkpoints to come evidently find no room on the disk.

        Of each the adapter is counted, and the optimizer's state, of at least its size; of those
        that are there already, all are kept while one more is written. With `best` the best policy
        is kept, while a better one is written.
        """
        left = math.ceil((loop.settings.updates - loop.update) / self.every)
        new = min(left, max(1, self.keep + 1 - len(self.steps())))
        weights = sum(p.nbytes for p in loop.policy.adapter_parameters())
        problem = room_problem(self.directory, 2 * weights * (new + best))
        if problem:
            raise UserError(problem)

    def steps(self, last: int | None = None) -> list[int]:
        """The numbers of the checkpoints up to `last`, oldest first.

        A run that went on from an older one has damaged ones beyond its last update. Raises OSError
        where they cannot be told.
        """
        found = map(re.compile(r"step-([1-9][0-9]*)").fullmatch, names_in(self.directory))
        return sorted(n for n in (int(m[1]) for m in found if m) if last is None or n <= last)

    def newest_whole(self) -> Path | None:
        """The newest checkpoint that is not damaged; None where there is no checkpoint at all.

        The user is told which are damaged. Raises UserError where all of them are.
        """
        found: list[str] = []
        steps = self.steps()
        for step in reversed(steps):
            folder = self.directory / f"step-{step}"
            problem = self._damage(folder)
            if problem is None:
                for line in found:
                    tell(f"warning: {line}: step-{step} is taken instead")
                return folder
            found.append(problem)
        if found:
            raise UserError(*(f"{line}, and no older checkpoint is whole" for line in found))
        return None

    def _damage(self, folder: Path) -> str | None:
        # Runs of earlier versions have no manifest, and checkpoints without checksums.
        required = kind_of(self.directory.parent / MANIFEST) is not None
        return damage(folder, required=required)

    def restore_latest(self, loop: Loop, accepted: list[str] | None = None) -> int:
        """Put the newest whole checkpoint into the loop; returns its update, 0 where there is none.

        Where the user goes on although something has changed, and `accepted` is the list of that,
        another prior is accepted as well.

        Raises UserError where none is whole, or it is another model's or version's.
        """
        folder = self.newest_whole()
        if folder is None:
            return 0
        try:
            loop.policy.load_adapter(folder)
        except OtherPriorError as error:
            if accepted is None:
                raise UserError(f"{error}, or add changed=true to go on with this one") from error
            accepted.append("the prior is another")
            tell("warning: the prior is another since the run began")
            loop.policy.load_adapter(folder, any_prior=True)
        try:
            content = io.BytesIO(read_bytes(folder / STATE, MAX_BYTES))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of formats that are refused all the same
                state = torch.load(content, map_location=loop.policy.device, weights_only=True)
            _check_kinds(state, int(folder.name.removeprefix("step-")))
            _restore(loop, state)
        except OSError as error:
            raise UserError(disk_problem(error, folder / STATE)) from error
        except pickle.UnpicklingError as error:  # torch's advice is to run what is in it
            raise UserError(
                f"{folder / STATE}: holds what klvi does not write there; "
                "klvi train starts a new run"
            ) from error
        except Exception as error:  # torch has many for what is no checkpoint
            raise UserError(
                f"{folder / STATE}: does not fit this version of klvi ({described(error)}); "
                "klvi train starts a new run"
            ) from error
        return loop.update


def _state(loop: Loop) -> dict[str, Any]:
    head = loop.policy.value_head
    return {
        "update": loop.update,
        "seconds": loop.seconds,
        "optimizer": loop.optimisation.optimizer.state_dict(),
        "scheduler": loop.optimisation.scheduler.state_dict(),
        "objective": loop.objective.state_dict(),
        "value_head": None if head is None else head.state_dict(),
        "proposal": loop.proposal.state_dict(),
        "target": loop.target.state(),
        "record": loop.record,
    }


def _check_plain(keeper: object, state: Any, place: str = "") -> None:
    """Raises UserError for what cannot be read again without running what it says."""
    if state is None or isinstance(state, Tensor | bool | int | float | str | bytes):
        return
    if isinstance(state, Mapping):
        for key, value in state.items():
            _check_plain(keeper, key, place)
            _check_plain(keeper, value, f"{place}[{key!r}]")
    elif isinstance(state, list | tuple | set):
        for value in state:
            _check_plain(keeper, value, place)
    else:
        raise UserError(
            f"{type(keeper).__name__}: its state{place} holds a {type(state).__name__}, which no "
            "checkpoint keeps; give tensors, numbers, texts, lists and mappings"
        )


def _check_kinds(state: dict[str, Any], update: int) -> None:
    """Raises ValueError where numbers of a loop are none, or those of another checkpoint."""
    if state["update"] != update:
        raise ValueError(f"it holds update {state['update']!r}")
    if not isinstance(state["seconds"], float | int):
        raise ValueError(f"its seconds are {state['seconds']!r}")
    if not isinstance(state.get("record") or {}, dict):
        raise ValueError("its record is none")


def _restore(loop: Loop, state: dict[str, Any]) -> None:
    loop.update = state["update"]
    loop.seconds = float(state["seconds"])
    loop.optimisation.optimizer.load_state_dict(state["optimizer"])
    loop.optimisation.scheduler.load_state_dict(state["scheduler"])
    loop.objective.load_state_dict(state["objective"])
    if loop.policy.value_head is not None:
        loop.policy.value_head.load_state_dict(state["value_head"])
    loop.proposal.load_state_dict(state["proposal"])
    loop.target = loop.target.with_state(state.get("target", {}))
    loop.record = state.get("record")


class Completed:
    """A copy of a loop's state after its last complete update, kept to be put back.

    Whatever an update that was broken off has done to weights, optimizer and estimates, `restore`
    undoes it.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.keep()

    def keep(self) -> None:
        """Copy the state as it is now."""
        loop = self._loop
        adapter = [parameter.detach().clone() for parameter in loop.policy.adapter_parameters()]
        # One assignment: what breaks the copying off leaves the one before.
        self._kept = adapter, copy.deepcopy(_state(loop))

    def restore(self) -> None:
        """Put the copy back; time that went by since, and a record that was seen to, stay so."""
        loop, (adapter, state) = self._loop, self._kept
        seconds = max(loop.seconds, state["seconds"])
        seen_to = loop.record is None and loop.update == state["update"]
        loop.policy.set_adapter(adapter)
        _restore(loop, copy.deepcopy(state))
        loop.seconds = seconds
        loop.record = None if seen_to else loop.record
