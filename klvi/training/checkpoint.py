"""Checkpoints: everything a resume needs, written so that a kill at any moment loses nothing."""

from __future__ import annotations

import copy
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from klvi.training.loop import Loop

STATE = "state.pt"


@dataclass(frozen=True)
class Checkpoints:
    """The folders `step-N` of a run, of which the newest `keep` stay.

    A checkpoint is built in a hidden folder and renamed when it is whole: a folder with the name
    `step-N` is always complete. Random states need no saving: every random number of an update
    depends on the seed and the update's number alone.
    """

    directory: Path
    keep: int = 1

    def save(self, loop: Loop) -> Path:
        """Write the loop's state after its last update; returns the folder."""
        final = self.directory / f"step-{loop.update}"
        if final.exists():
            return final
        building = self.directory / f".step-{loop.update}"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        loop.policy.save_adapter(building)
        torch.save(_state(loop), building / STATE)
        building.rename(final)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.directory / f"step-{old}")
        return final

    def steps(self) -> list[int]:
        """The numbers of the whole checkpoints, oldest first."""
        names = [path.name for path in self.directory.glob("step-*")]
        return sorted(int(m[1]) for m in map(re.compile(r"step-(\d+)").fullmatch, names) if m)

    def restore_latest(self, loop: Loop) -> int:
        """Put the newest checkpoint into the loop; returns its update, 0 where there is none."""
        steps = self.steps()
        if not steps:
            return 0
        folder = self.directory / f"step-{steps[-1]}"
        loop.policy.load_adapter(folder)
        _restore(
            loop, torch.load(folder / STATE, map_location=loop.policy.device, weights_only=True)
        )
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
        "proposal": loop.proposal,
        "record": loop.record,
    }


def _restore(loop: Loop, state: dict[str, Any]) -> None:
    loop.update = state["update"]
    loop.seconds = state["seconds"]
    loop.optimisation.optimizer.load_state_dict(state["optimizer"])
    loop.optimisation.scheduler.load_state_dict(state["scheduler"])
    loop.objective.load_state_dict(state["objective"])
    if loop.policy.value_head is not None:
        loop.policy.value_head.load_state_dict(state["value_head"])
    loop.proposal = state["proposal"]
    loop.record = state.get("record")


class Completed:
    """A copy of a loop's state after its last complete update, kept to be put back.

    Whatever an update that was broken off has done to weights, optimizer and estimates, and
    wherever another adapter was in the policy's place, `restore` undoes it.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.keep()

    def keep(self) -> None:
        """Copy the state as it is now."""
        loop = self._loop
        # One assignment: what breaks the copying off leaves the one before.
        self._kept = loop.policy.snapshot(), copy.deepcopy(_state(loop))

    def restore(self) -> None:
        """Put the copy back; time that went by since, and a record that was seen to, stay so."""
        loop, (adapter, state) = self._loop, self._kept
        seconds = max(loop.seconds, state["seconds"])
        seen_to = loop.record is None and loop.update == state["update"]
        for parameter, weight in zip(loop.policy.adapter_parameters(), adapter, strict=True):
            parameter.data = weight.clone()
        _restore(loop, copy.deepcopy(state))
        loop.seconds = seconds
        loop.record = None if seen_to else loop.record
