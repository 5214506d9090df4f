"""The problems of one configuration: what a single run, or one job of a sweep, would get."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from klvi.config.compose import COMPOSITION_ERRORS, SCHEMAS, Composer, one_line, problems_of
from klvi.config.keys import keys, sections_of, suggestion
from klvi.config.overrides import needs_multirun
from klvi.config.validation import spelled, unknown_key


@dataclass(frozen=True)
class Combination:
    """A command with its overrides; `settings` is the command's configuration before them."""

    command: str
    hydra: Composer
    settings: DictConfig
    overrides: Sequence[Override]

    def problems(self) -> list[str]:
        """A line for each problem, of the overrides and of the configuration they lead to."""
        problems: list[str] = []
        chosen = self._without(self.overrides, self._choice_problem, problems)
        groups = [o for o in chosen if self.hydra.is_group(o.key_or_group)]
        whole = self._compose(chosen)
        base = whole or self._compose(groups)
        if base is None:
            return problems + self._culprits(groups)
        raw = OmegaConf.to_container(base, resolve=False)
        good = self._without(chosen, lambda o: self._key_problem(o, base, raw), problems)
        cfg = whole if whole and len(good) == len(chosen) else self._compose(good)
        if cfg is None:
            return problems + self._culprits(good)
        return problems + problems_of(self.command, cfg)

    @staticmethod
    def _without(
        overrides: Sequence[Override], problem: Any, problems: list[str]
    ) -> list[Override]:
        """The overrides without a problem; the others' problems are added to `problems`."""
        good = []
        for override in overrides:
            found = problem(override)
            if found:
                problems.append(found)
            else:
                good.append(override)
        return good

    def _compose(self, overrides: Sequence[Override]) -> DictConfig | None:
        try:
            return self.hydra.compose([o.input_line or "" for o in overrides])
        except COMPOSITION_ERRORS:
            return None

    def _culprits(self, overrides: Sequence[Override]) -> list[str]:
        """The overrides that Hydra refuses, in Hydra's words."""
        accepted: list[str] = []
        problems = []
        for override in overrides:
            line = override.input_line or ""
            try:
                self.hydra.compose([*accepted, line])
                accepted.append(line)
            except COMPOSITION_ERRORS as error:
                problems.append(f"{line}: {one_line(error)}")
        return problems

    def _choice_problem(self, override: Override) -> str | None:
        group, line = override.key_or_group, override.input_line
        if override.is_sweep_override():
            return needs_multirun(override)
        if not self.hydra.is_group(group) or override.is_delete():
            return None
        if group not in self.settings.hydra.runtime.choices and not override.is_add():
            return f"{line}: klvi {self.command} has no {group}"
        if group in self.settings.hydra.runtime.choices and override.is_add():
            return f"{line}: write it without the +"
        value = override.value()
        for choice in value if isinstance(value, list) else [value]:
            if choice is not None and not self._exists(group, str(choice)):
                known = self.hydra.choices(group)
                near = suggestion(str(choice), known)
                return f"{group}={spelled(choice)}: must be one of {', '.join(known)}{near}"
        return None

    def _exists(self, group: str, choice: str) -> bool:
        folder, _, name = f"{group}/{choice}".rpartition("/")
        return name in self.hydra.choices(folder)

    def _key_problem(self, override: Override, base: DictConfig, raw: Any) -> str | None:
        key, line = override.key_or_group, override.input_line
        schema = SCHEMAS[self.command]
        if self.hydra.is_group(key):
            return None
        if key == "hydra.sweep.subdir":
            return f"{line}: klvi numbers the jobs of a sweep"
        if key.startswith("hydra.") or key == "hydra":
            return None if override.is_add() else _hydra_key_problem(key, base)
        group, _, last = key.rpartition(".")
        if self.command in {"eval", "sample"} and key.split(".")[0] == "lora":
            return f"{line}: klvi {self.command} takes the LoRA of the run"
        if key not in keys(schema, raw):
            groups = (g for g in self.settings.hydra.runtime.choices if not g.startswith("hydra/"))
            return unknown_key(key, schema, raw, *groups)
        if last == "name" and len(sections_of(schema.model_fields[group].annotation)) > 1:
            return f"{line}: choose with {group}={spelled(override.value())}"
        if override.is_add() and OmegaConf.select(self.settings, key) is not None:
            return f"{line}: {key} has a value already; write it without the +"
        return None


def _hydra_key_problem(key: str, base: DictConfig) -> str | None:
    known = list(_dotted(OmegaConf.to_container(base.hydra, resolve=False), "hydra"))
    return None if key in known else f"{key}: unknown key of Hydra{suggestion(key, known)}"


def _dotted(value: Any, key: str) -> Iterator[str]:
    yield key
    for name, below in value.items() if isinstance(value, dict) else ():
        yield from _dotted(below, f"{key}.{name}")
