"""Every problem of a command line and its configuration at once, before anything runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from klvi.config.command_line import (
    CommandLine,
    Sweep,
    needs_multirun,
    parse_overrides,
    sweep_of,
    with_free_keys,
)
from klvi.config.compose import (
    COMPOSITION_ERRORS,
    IS_MISSING,
    OF_A_RUN,
    SCHEMAS,
    Composer,
    composer,
    one_line,
    plain,
    problems_of,
)
from klvi.config.keys import is_key, is_optional_group, keys, spelled, unknown_key
from klvi.config.stored_run import kept_of_run, store_primary
from klvi.config.trust import untrusted, untrusted_to_resume
from klvi.errors import UserError
from klvi.quoting import resolved
from klvi.registry import has_no_file
from klvi.runs.folder import folder_problem, sweep_problem
from klvi.schema import names_of, sections_of
from klvi.spelling import suggestion

MAX_JOBS = 100


@dataclass(frozen=True)
class Checked:
    """A command line without a problem.

    Attributes:
        config_name: the primary config for Hydra.
        sweep_directory: where a multirun goes; None for a single run.
        jobs: of each job of a multirun the keys in which it differs from the others.
    """

    config_name: str
    sweep_directory: Path | None = None
    jobs: tuple[Mapping[str, str], ...] = ()


def check(command: str, line: CommandLine) -> Checked:
    """Check a command line for `command`; composes, but writes and runs nothing.

    Raises UserError with a line for each problem.
    """
    _raise(_flag_problems(line.options))
    with composer(line.options.config_name or command, line.options.config_dir) as hydra:
        words = with_free_keys(line.words, SCHEMAS[command])
        overrides, problems = parse_overrides(words, hydra)
        try:
            hydra = _of_a_run(command, line, hydra, overrides)
            mode = RunMode.MULTIRUN if line.options.multirun else RunMode.RUN
            settings = _settings(hydra, overrides, mode)
        except UserError as error:
            raise UserError(*problems, *error.problems) from error
        own_groups = list(settings.hydra.runtime.choices)
        sweep = None
        if line.options.multirun or settings.hydra.mode == RunMode.MULTIRUN:
            problems += _interval_problems(settings, overrides)
            sweep = _sweep(hydra, settings, overrides)
        for job in _jobs(hydra, overrides, sweep):
            problems += Combination(command, hydra, own_groups, job).problems()
        _raise(problems)
        if sweep is None:
            if command == "train" and not line.options.cfg and not line.options.info:
                _raise(_folder_problems(settings, "run", folder_problem))
            return Checked(hydra.config_name)
        _raise(_folder_problems(settings, "sweep", sweep_problem))
        directory = Path(str(settings.hydra.sweep.dir)).absolute()
    return Checked(hydra.config_name, directory, tuple(sweep.varying()))


def _folder_problems(
    settings: DictConfig, kind: str, problem_of: Callable[[Path], str | None]
) -> list[str]:
    """Why Hydra must not make, or write into, the folder of a run or a sweep."""
    key = f"hydra.{kind}.dir"
    try:
        folder = Path(str(OmegaConf.select(settings, key)))
    except OmegaConfBaseException as error:
        return [f"{key}: {one_line(error)}"]
    problem = problem_of(folder)
    return [f"{key}={folder}: {problem}"] if problem else []


def _raise(problems: Iterable[str]) -> None:
    problems = tuple(dict.fromkeys(problems))
    given = {problem.partition("=")[0] for problem in problems}
    # What was refused as it was given is not missing.
    left = [p for p in problems if IS_MISSING not in p or p.partition(IS_MISSING)[0] not in given]
    if left:
        raise UserError(*left)


def _flag_problems(options: argparse.Namespace) -> list[str]:
    exclusive = ("run", "multirun", "cfg", "info", "shell_completion")
    printing = ("cfg", "info", "shell_completion", "dry_run")
    problems = []
    for names in (exclusive, printing):
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
        if len(given) > 1:
            problems.append(f"{' and '.join(given)} exclude each other")
    if options.json:
        problems.append("--json: only klvi runs has it")
    if options.resolve and not options.cfg:
        problems.append("--resolve: only with --cfg")
    if options.config_dir and not Path(options.config_dir).is_dir():
        problems.append(f"--config-dir={options.config_dir}: no such folder")
    for name in ("config_path", "experimental_rerun"):
        if getattr(options, name):
            flag = f"--{name.replace('_', '-')}"
            problems.append(f"{flag}: klvi has no use for it; --config-dir adds your own configs")
    return problems


def _of_a_run(
    command: str, line: CommandLine, hydra: Composer, overrides: list[Override]
) -> Composer:
    """With `run=DIR`, the run's configuration as primary config."""
    given = [o for o in overrides if o.key_or_group == "run" and command in OF_A_RUN]
    if not given or given[-1].value() is None:
        return hydra
    if given[-1].is_sweep_override():
        raise UserError("run: takes one folder; a sweep goes over other keys")
    if line.options.config_name:
        raise UserError("--config-name and run= exclude each other")
    groups = {o.key_or_group for o in overrides if hydra.is_group(o.key_or_group)}
    if "model" in groups:
        raise UserError("model= and run= exclude each other: a run's policy has the run's model")
    try:
        run = resolved(given[-1].value())
    except OmegaConfBaseException as error:
        raise UserError(f"run: {one_line(error)}; the letters ${{ are typed \\${{") from error
    return replace(hydra, config_name=store_primary(command, str(run), groups))


def _settings(hydra: Composer, overrides: list[Override], mode: RunMode) -> DictConfig:
    """The configuration without what varies in a sweep, or without overrides if one is wrong."""
    fixed = [o.input_line or "" for o in overrides if not o.is_sweep_override()]
    try:
        return hydra.compose(fixed, mode)
    except COMPOSITION_ERRORS:
        pass
    try:
        return hydra.compose([], mode)
    except COMPOSITION_ERRORS as error:
        raise UserError(one_line(error)) from error


def _interval_problems(settings: DictConfig, overrides: Sequence[Override]) -> list[str]:
    if not settings.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return []
    return [
        f"{o.input_line}: an interval needs another sweeper than Hydra's own; list the values"
        for o in overrides
        if o.is_interval_sweep()
    ]


def _sweep(hydra: Composer, settings: DictConfig, overrides: Sequence[Override]) -> Sweep:
    """The sweep of the command line and of `hydra.sweeper.params` in a YAML file."""
    parameters = settings.hydra.sweeper.get("params") or {}
    swept, problems = parse_overrides([f"{k}={v}" for k, v in parameters.items()], hydra)
    if problems:
        raise UserError(*(f"hydra.sweeper.params: {problem}" for problem in problems))
    return sweep_of([*swept, *overrides])


def _jobs(
    hydra: Composer, overrides: Sequence[Override], sweep: Sweep | None
) -> Iterator[Sequence[Override]]:
    if sweep is None:
        yield overrides
    else:
        for job in sweep.sample(MAX_JOBS):
            yield parse_overrides(job, hydra)[0]


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
        values = [*_given_twice(good, cfg), *self._wrong_values(cfg)] if cfg else []
        return problems + wrong_keys + values

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
        if self.command == "resume":
            return untrusted_to_resume(run, kept)
        return untrusted(run, kept, values, self.overrides)

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
        value = override.value()
        if isinstance(value, list) and group in SCHEMAS[self.command].model_fields:
            return (
                f"{line}: takes one of its choices; a sweep over several needs -m and no brackets"
            )
        if group not in self.own_groups and not override.is_add():
            return f"{line}: klvi {self.command} has no {group}"
        if group in self.own_groups and override.is_add():
            return f"{line}: write it without the +"
        for choice in value if isinstance(value, list) else [value]:
            if choice is None or not self._exists(group, str(choice)):
                known = self.hydra.choices(group)
                lacking = has_no_file(group, str(choice))
                if lacking is not None:
                    return f"{group}={choice}: {lacking}"
                near = suggestion(str(choice), known)
                return f"{group}={spelled(choice)}: must be one of {', '.join(known)}{near}"
        return None

    def _exists(self, group: str, choice: str) -> bool:
        folder, _, name = f"{group}/{choice}".rpartition("/")
        return name in self.hydra.choices(folder)


def _given_twice(overrides: Sequence[Override], cfg: DictConfig) -> Iterator[str]:
    """A beta on the command line beside a KL that it is to be found from."""
    kl = OmegaConf.select(cfg, "target.kl_prior")
    for override in overrides:
        if override.key_or_group == "beta" and kl is not None:
            yield (
                f"{override.input_line} with target.kl_prior={spelled(kl)}: beta is found from "
                "kl_prior; leave one of them out"
            )


def _sorted_out(
    overrides: Sequence[Override], problem: Callable[[Override], str | None]
) -> tuple[list[Override], list[str]]:
    """The overrides without a problem, and the problems of the others."""
    found = [(override, problem(override)) for override in overrides]
    return [o for o, line in found if line is None], [line for _, line in found if line]


@dataclass(frozen=True)
class KeyCheck:
    """Checks overrides against a composed configuration, `base`, with the same choices of files.

    Attributes:
        own_groups: the config groups that the command has.
        choices: the overrides that choose files.
    """

    command: str
    hydra: Composer
    own_groups: Sequence[str]
    base: DictConfig
    choices: Sequence[Override]

    def problem(self, override: Override) -> str | None:
        """A line for what is wrong with the key of an override; None where nothing is."""
        key = override.key_or_group
        if self.hydra.is_group(key) or override.is_delete():
            return None
        if key == "hydra" or key.startswith("hydra."):
            return self._hydra_problem(override)
        if self.command in OF_A_RUN and key.split(".")[0] == "lora":
            return f"{override.input_line}: klvi {self.command} takes the LoRA of the run"
        schema = SCHEMAS[self.command]
        raw: Any = OmegaConf.to_container(self.base, resolve=False)
        group = key.partition(".")[0]
        if raw.get(group) is None and is_optional_group(schema, group):
            return f"{override.input_line}: there is no {group}; choose one, as in {group}=NAME"
        if not is_key(schema, raw, key):
            groups = (group for group in self.own_groups if not group.startswith("hydra/"))
            return unknown_key(key, schema, raw, *groups)
        return _value_problem(override, schema, raw) or self._addition_problem(override)

    def _hydra_problem(self, override: Override) -> str | None:
        key = override.key_or_group
        if key == "hydra.sweep.subdir":
            return f"{override.input_line}: klvi numbers the jobs of a sweep"
        known = list(_dotted(OmegaConf.to_container(self.base.hydra, resolve=False), "hydra"))
        if key in known or override.is_add() or override.is_force_add():
            return None
        return f"{key}: unknown key of Hydra{suggestion(key, known)}"

    def _addition_problem(self, override: Override) -> str | None:
        if not override.is_add():
            return None
        try:
            before = self.hydra.compose([o.input_line or "" for o in self.choices])
        except COMPOSITION_ERRORS:
            return None
        if OmegaConf.select(before, override.key_or_group) is None:
            return None
        return f"{override.input_line}: has a value already; write it without the +"


def _value_problem(override: Override, schema: type[BaseModel], raw: Any) -> str | None:
    key, value = override.key_or_group, override.value()
    group, _, last = key.rpartition(".")
    if last == "name" and _is_choice(schema, raw, group, value):
        return f"{override.input_line}: choose with {group}={spelled(value)}"
    below = [other for other in keys(schema, raw) if other.startswith(f"{key}.")]
    if below and not isinstance(value, dict):
        return f"{override.input_line}: is a section; set its keys, as in {below[0]}=VALUE"
    return None


def _is_choice(schema: type[BaseModel], raw: Any, group: str, name: object) -> bool:
    """Whether the `name` of a group tells its choices apart, where it is or would be `name`."""
    field = schema.model_fields.get(group)
    sections = sections_of(field.annotation) if field else []
    names = [known for section in sections for known in names_of(section)]
    free = not all(map(names_of, sections))
    present = raw.get(group) or {}
    return bool(names) and not (free and name not in names and present.get("name") not in names)


def _dotted(value: Any, key: str) -> Iterator[str]:
    yield key
    for name, below in value.items() if isinstance(value, dict) else ():
        yield from _dotted(below, f"{key}.{name}")
