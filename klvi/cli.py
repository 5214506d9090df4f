"""The `klvi` command: dispatch only. What a command does is in `klvi.commands`."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence

from hydra.errors import HydraException

import klvi
from klvi import interruption
from klvi.config.command_line import CommandLine, parse, with_free_keys
from klvi.config.compose import CONF_DIRECTORY, SCHEMAS, one_line, set_folders
from klvi.config.hydra_api import application
from klvi.config.problems import Checked, check
from klvi.errors import RunError, UserError
from klvi.files import naming, reason_of
from klvi.job import FAILED, Job
from klvi.quoting import override
from klvi.spelling import suggestion
from klvi.terminal import (
    output_problem,
    put,
    report,
    report_exception,
    safe_streams,
    tell,
    tell_of_threads,
)

COMMANDS = {
    "train": "align a prior with a reward",
    "eval": "measure a run's policy anew, anybody's policy, or a prior alone",
    "sample": "print texts of a run's policy, or of a prior",
    "preferences": "label pairs of completions with a reward",
    "reward": "train reward models on preference pairs",
    "runs": "list runs, filtered, as a table or JSON",
    "resume": "go on from a run's last checkpoint",
    "export": "write a run's policy, or a prior, as a Hugging Face folder",
    "pretrain": "make a small prior from a text corpus",
    "verify": "check klvi's numbers on this machine",
    "env": "tell versions, devices and paths, and check a model, for a bug report",
}
EXAMPLES = (
    "klvi train objective=kl beta=0.1",
    "klvi train -m objective=rl,kl,gdc seed=0,1",
    "klvi eval run=runs/kl/DIR evaluation.samples=2000",
    "klvi sample run=runs/kl/DIR n=20",
    "klvi runs objective=kl status=finished",
    "klvi train --help",
    'eval "$(klvi -sc install=bash)"      # tab completion',
)
# The one command that Hydra does not compose: its keys are those of the runs that it lists.
RUNS = "runs"
INTERRUPTED = 130
FULL_ERROR = "HYDRA_FULL_ERROR"
# torch, transformers and TRL come as half a million objects that stay. Python would look through
# them for garbage again and again while they are imported, and once more at the end: a third of a
# short command's time. By default it looks after 700 new objects.
NEW_OBJECTS = 10_000


@safe_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: `sys.argv`); returns the exit code."""
    gc.set_threshold(NEW_OBJECTS)
    with interruption.watched():
        code = _main(arguments)
    if arguments is None:
        interruption.leave()
    return code


def _main(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(words)
        _check_output(words)
        return code
    except UserError as error:
        report(error)
        return error.exit_code
    except OSError as error:  # what no job has met, as before there is one
        tell(f"error: {reason_of(error)}")
        return FAILED
    except Exception:
        report_exception()
        return FAILED
    except KeyboardInterrupt as error:
        cause = interruption.cause_of(error)
        tell(str(cause or "interrupted"))
        return INTERRUPTED if cause is None else cause.exit_code
    finally:
        gc.freeze()
        if arguments is None:
            tell_of_threads()


def _check_output(arguments: Sequence[str]) -> None:
    """Raises RunError where the standard output is all that was asked for, and did not take it."""
    problem = output_problem()
    if problem is not None and _only_prints(arguments):
        raise RunError(f"standard output: {problem.strerror}")


def _only_prints(arguments: Sequence[str]) -> bool:
    """Whether a command leaves nothing but what it prints."""
    if "--version" in arguments:
        return True
    line = parse(arguments)
    asked = (getattr(line.options, name) for name in ("help", "hydra_help", "cfg", "info"))
    if any(asked) or line.options.shell_completion or not line.words:
        return True
    command, *words = line.words
    return command in {"env", "sample", "runs"} and not any(
        word.startswith("out=") for word in words
    )


def _dispatch(arguments: list[str]) -> int:
    if "--version" in arguments:
        print(f"klvi {klvi.__version__}")
        return 0
    line = parse(arguments)
    set_folders(line.options.config_dir)
    if line.options.shell_completion:
        return _complete(line)
    if not line.words:
        print(_help())
        return 0
    command, *words = line.words
    if command not in COMMANDS:
        raise UserError(_unknown_command(command))
    with naming("the present folder", UserError):
        os.getcwd()
    if command == RUNS:
        from klvi.commands import runs  # imports rich

        return runs.main(words, line.options)
    words = with_free_keys(words, SCHEMAS[command])
    return _run(command, CommandLine(tuple(words), line.options, line.flags))


def _help() -> str:
    commands = "\n".join(f"  {name:<13}{does}" for name, does in COMMANDS.items())
    examples = "\n".join(f"  {example}" for example in EXAMPLES)
    return (
        "klvi: align language models as Bayesian inference.\n\n"
        f"Usage\n  klvi COMMAND [group=choice ...] [key=value ...] [flags]\n\n"
        f"Commands\n{commands}\n\nExamples\n{examples}\n\n"
        "klvi COMMAND --help tells a command's groups, keys and flags."
    )


def _unknown_command(word: str) -> str:
    if "=" in word:
        return f"{word}: a command comes first, as in klvi train {word}"
    near = suggestion(word, COMMANDS) or f"; the commands are {', '.join(COMMANDS)}"
    return f"{word}: unknown command{near}"


def _complete(line: CommandLine) -> int:
    """Tab completion by Hydra, which knows no commands: the command is taken out of its line."""
    typed = os.environ.get("COMP_LINE", "").split(" ")
    program, *words = typed
    if len(words) == 1:
        print(" ".join(name for name in COMMANDS if name.startswith(words[0])))
        return 0
    command = words[0] if words and words[0] in COMMANDS else "train"
    script = not any(word.startswith("query=") for word in line.words)
    if command == RUNS and not script:
        from klvi.commands import runs

        print(" ".join(runs.completions(words[-1])))
        return 0
    os.environ["COMP_LINE"] = " ".join([program, *words[1:]])
    found = io.StringIO()
    with contextlib.redirect_stdout(found):
        _hydra(command, command, [*line.flags, *line.words])
    print(found.getvalue() if script else " ".join(_own(command, found.getvalue().split())))
    return 0


def _own(command: str, completions: Sequence[str]) -> Iterator[str]:
    """Without the config groups that other commands have."""
    own = {*SCHEMAS[command].model_fields, *(("experiment", "debug") if command == "train" else ())}
    groups = {folder.name for folder in CONF_DIRECTORY.iterdir() if folder.is_dir()}
    for completion in completions:
        if completion.rstrip("=") not in groups - own:
            yield completion


def _run(command: str, line: CommandLine) -> int:
    if line.options.help:
        importlib.import_module("klvi.config.help")  # gives the template's interpolations meaning
        # An override could be wrong, and the help must come all the same.
        _hydra(command, line.options.config_name or command, line.flags)
        return 0
    checked = check(command, line)
    if line.options.dry_run:
        jobs = "" if checked.sweep_directory is None else f"{len(checked.jobs)} jobs, "
        put(f"klvi {command}: {jobs}no problem found; nothing was run")
        return 0
    arguments = [*line.flags, *line.words]
    if checked.sweep_directory is None:
        return _hydra(command, checked.config_name, arguments)
    # Hydra would resolve the folder's name anew for every job, and `name` may vary among them.
    arguments.append(override("hydra.sweep.dir", checked.sweep_directory))
    finished = True
    try:
        with naming(checked.sweep_directory):  # of Hydra's own files in it
            code = _hydra(command, checked.config_name, arguments)
    finally:
        if command == "train":
            finished = _print_sweep(checked)
    return max(code, 0 if finished else FAILED)


def _print_sweep(checked: Checked) -> bool:
    from klvi.tracking.output import Output  # imports torch
    from klvi.tracking.sweep import print_sweep

    assert checked.sweep_directory is not None
    return print_sweep(checked.sweep_directory, checked.jobs, Output())


def _hydra(command: str, config_name: str, arguments: Sequence[str]) -> int:
    """Hand over to Hydra; returns the highest exit code of the jobs that ran in this process."""
    sys.argv = [sys.argv[0], *arguments]
    job = Job(command)
    run = application(job, CONF_DIRECTORY, config_name)
    with _raising():
        try:
            run()
        except SystemExit as leaving:  # so Hydra ends what only prints, such as --help
            if leaving.code:
                raise
    return max(job.codes, default=0)


@contextlib.contextmanager
def _raising() -> Iterator[None]:
    """Within, Hydra raises what it cannot do, as to make a folder; else it prints a traceback."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    except HydraException as error:
        raise UserError(one_line(error)) from error
    finally:
        os.environ.pop(FULL_ERROR)
        if before is not None:
            os.environ[FULL_ERROR] = before
