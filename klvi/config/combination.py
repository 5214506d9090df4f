"""The problems of one configuration: what a single run, or one job of a sweep, would get."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from klvi.config.compose import (
    COMPOSITION_ERRORS,
    OF_A_RUN,
    Composer,
    one_line,
    plain,
    problems_of,
)
from klvi.config.key_check import KeyCheck
from klvi.config.overrides import needs_multirun
from klvi.config.run_folder import kept_of_run
from klvi.config.trust_check import untrusted
from klvi.config.validation import spelled
from klvi.errors import UserError
from klvi.runs.trust import changed_code
from klvi.spelling import suggestion


@dataclass(frozen=True)
class Combination:
    """A command with its overrides; `own_groups` are the config groups that the command has."""

    command: str
    hydra: Composer
    own_groups: Sequence[str]
    overrides: Sequence[Override]

    def problems(self) -> list[str]:
        """A line for each problem, of the overrides and of the configuration they lead to."""
        chosen, problems = _sorted_out(self.overrides, self._choice_problem)
        choices = [o for o in chosen if self.hydra.is_group(o.key_or_group)]
        whole = self._compose(chosen)
        base = whole or self._compose(choices)
        if base is None:
            return problems + self._accepted(choices)[1]
        check = KeyCheck(self.command, self.hydra, self.own_groups, base, choices)
        good, wrong_keys = _sorted_out(chosen, check.problem)
        cfg = self._compose(good)
        if cfg is None:
            good, refused = self._accepted(good)
            wrong_keys += refused
            cfg = self._compose(good)
        # Of what is not trusted nothing is looked into.
        return problems + wrong_keys + (self._wrong_values(cfg) if cfg else [])

    def _wrong_values(self, cfg: DictConfig) -> list[str]:
        run = cfg.get("run") if self.command in (*OF_A_RUN, "resume") else None
        if run is not None and cfg.get("trust") is not True:
            try:
                refused = self._untrusted(str(run), plain(cfg))
            except UserError as error:
                return list(error.problems)
            except OmegaConfBaseException:  # which `problems_of` tells
                refused = []
            if refused:
                return refused
        return problems_of(self.command, cfg)

    def _untrusted(self, run: str, values: Mapping[str, Any]) -> list[str]:
        """What of the run is used, and named by the run alone; a resumed one is used whole."""
        groups = {o.key_or_group for o in self.overrides if self.hydra.is_group(o.key_or_group)}
        kept = kept_of_run(self.command, run, groups)
        if self.command != "resume":
            return untrusted(run, kept, values, self.overrides)
        # Of the user's own run, `klvi resume` tells all that has changed since.
        own = changed_code(Path(run).expanduser()) is not None
        return [] if own else untrusted(run, kept, kept, self.overrides)

    def _compose(self, overrides: Sequence[Override]) -> DictConfig | None:
        try:
            return self.hydra.compose([o.input_line or "" for o in overrides])
        except COMPOSITION_ERRORS:
            return None

    def _accepted(self, overrides: Sequence[Override]) -> tuple[list[Override], list[str]]:
        """The overrides that Hydra accepts, and of the others what Hydra says."""
        accepted: list[Override] = []
        problems = []
        for override in overrides:
            try:
                self.hydra.compose([o.input_line or "" for o in [*accepted, override]])
                accepted.append(override)
            except COMPOSITION_ERRORS as error:
                problems.append(f"{override.input_line}: {one_line(error)}")
        return accepted, problems

    def _choice_problem(self, override: Override) -> str | None:
        """What is wrong with the choice of a file for a config group."""
        group, line = override.key_or_group, override.input_line
        if override.is_sweep_override():
            return needs_multirun(override)
        if not self.hydra.is_group(group) or override.is_delete():
            return None
        if group not in self.own_groups and not override.is_add():
            return f"{line}: klvi {self.command} has no {group}"
        if group in self.own_groups and override.is_add():
            return f"{line}: write it without the +"
        value = override.value()
        for choice in value if isinstance(value, list) else [value]:
            if choice is None or not self._exists(group, str(choice)):
                known = self.hydra.choices(group)
                near = suggestion(str(choice), known)
                return f"{group}={spelled(choice)}: must be one of {', '.join(known)}{near}"
        return None

    def _exists(self, group: str, choice: str) -> bool:
        folder, _, name = f"{group}/{choice}".rpartition("/")
        return name in self.hydra.choices(folder)


def _sorted_out(
    overrides: Sequence[Override], problem: Callable[[Override], str | None]
) -> tuple[list[Override], list[str]]:
    """The overrides without a problem, and the problems of the others."""
    found = [(override, problem(override)) for override in overrides]
    return [o for o, line in found if line is None], [line for _, line in found if line]
