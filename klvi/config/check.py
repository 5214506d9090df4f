"""Every problem of a command line and its configuration at once, before anything runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from klvi.config.combination import Combination
from klvi.config.command_line import CommandLine
from klvi.config.compose import COMPOSITION_ERRORS, OF_A_RUN, SCHEMAS, Composer, composer, one_line
from klvi.config.overrides import Sweep, parse_overrides, sweep_of, with_free_keys
from klvi.config.run_folder import store_primary
from klvi.errors import UserError
from klvi.quoting import resolved
from klvi.runs.folder import folder_problem, sweep_problem

MAX_JOBS = 100
MISSING = ": is missing"


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
    left = [p for p in problems if MISSING not in p or p.partition(MISSING)[0] not in given]
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
