"""From the command line to a command and back: folders, exit codes, sweeps, failures."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from klvi.cli import main
from klvi.commands.context import Context
from klvi.errors import RunError, UserError
from klvi.job import Job, mark_failed
from klvi.runs.schema import EvalConfig, TrainConfig

Run = Callable[[Any, Context], int]
Install = Callable[[str, Run], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Put a command in the place of klvi's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["klvi"])

    def replace(command: str, run: Run) -> None:
        module = types.ModuleType(command)
        module.run = run
        monkeypatch.setitem(sys.modules, f"klvi.commands.{command}", module)

    return replace


def finish(context: Context, reward: float) -> None:
    metrics = {"eval/reward": {"value": reward, "low": 0.0, "high": 1.0, "n": 9}}
    summary = {"status": "finished", "metrics": metrics, "seconds": 1.0}
    (context.directory / "summary.json").write_text(json.dumps(summary))


def test_train_gets_its_configuration_and_a_new_folder(install: Install, tmp_path: Path) -> None:
    calls = []
    install("train", lambda config, context: calls.append((config, context)) or 0)
    assert main(["train", "objective=rl", "seed=3"]) == 0
    ((config, context),) = calls
    assert isinstance(config, TrainConfig)
    assert (config.objective.name, config.seed, config.name) == ("rl", 3, "rl")
    assert context.directory.parent == tmp_path / "runs" / "rl"
    assert list(context.directory.iterdir()) == []
    assert context.overrides == ("objective=rl", "seed=3")
    assert (context.job_number, context.sweep_directory) == (None, None)


def test_a_dry_run_checks_and_does_nothing(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("train", lambda *_: pytest.fail("ran"))
    assert main(["train", "beta=0.3", "--dry-run"]) == 0
    assert main(["train", "-m", "objective=rl,kl", "beta=0.1,0.3,1", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "klvi train: no problem found; nothing was run",
        "klvi train: 6 jobs, no problem found; nothing was run",
    ]
    assert main(["train", "beta=-1", "--dry-run"]) == 2
    assert main(["train", "--dry-run", "--cfg", "job"]) == 2
    assert "--cfg and --dry-run exclude each other" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_user_chooses_the_folder(install: Install, tmp_path: Path) -> None:
    folders = []
    install("train", lambda _, context: folders.append(context.directory) or 0)
    assert main(["train", "hydra.run.dir=a/b"]) == 0
    assert folders == [tmp_path / "a" / "b"]


def test_other_commands_make_no_folder(install: Install, tmp_path: Path) -> None:
    calls = []
    install("eval", lambda config, context: calls.append((config, context.directory)) or 7)
    assert main(["eval", "model=gpt2", "seed=5"]) == 7
    ((config, directory),) = calls
    assert isinstance(config, EvalConfig)
    assert (config.model.name, config.seed, directory) == ("gpt2", 5, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("multirun", [[], ["-m", "seed=0,1"]])
def test_paths_mean_the_folder_where_they_were_typed(
    install: Install, tmp_path: Path, multirun: list[str]
) -> None:
    """Also where Hydra has gone to the job's own folder before."""
    (tmp_path / "r.py").write_text("def f(texts): ...")
    (tmp_path / "words").write_text("a\n")
    calls = []
    install("train", lambda config, _: calls.append((config, Path.cwd())) or 1)
    chosen = ["reward=sum", "+reward.terms.c.reward={name: python, function: r.py:f}"]
    prompts = ["prompts=file", "prompts.path=words", "model=gpt2", "model.path=."]
    main(["train", *multirun, *chosen, *prompts, "hydra.job.chdir=true"])
    assert len(calls) == (2 if multirun else 1)
    for config, present in calls:
        assert present.parent != tmp_path.parent
        assert config.reward.terms["c"].reward.function == f"{tmp_path}/r.py:f"
        assert config.prompts.path == f"{tmp_path}/words"
        assert config.model.path == str(tmp_path)


def test_results_of_a_job_in_its_own_folder_go_where_they_were_typed(
    install: Install, tmp_path: Path
) -> None:
    outs = []
    install("eval", lambda config, _: outs.append(config.out) or 0)
    assert main(["eval", "model=gpt2", "out=sub/x.json", "hydra.job.chdir=true"]) == 0
    assert main(["eval", "-m", "model=gpt2", "seed=0,1", "out=x.json", "hydra.job.chdir=true"]) == 0
    assert [str(tmp_path / out) for out in outs] == [
        str(tmp_path / name) for name in ("sub/x.json", "x.json", "x.json")
    ]


def test_a_users_mistake_met_in_a_command(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: TrainConfig, context: Context) -> int:
        raise UserError("the first", "the second")

    install("train", run)
    assert main(["train"]) == 2
    assert capsys.readouterr().err == "klvi: error: the first\nklvi: error: the second\n"
    assert list(tmp_path.glob("runs/*/*")) == []


def test_a_failure_later_on_marks_the_run(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: TrainConfig, context: Context) -> int:
        (context.directory / "metrics.jsonl").write_text("{}\n")
        raise ZeroDivisionError("by zero")

    install("train", run)
    assert main(["train"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("ZeroDivisionError: by zero\n")
    (file,) = tmp_path.glob("runs/kl/*/summary.json")
    assert json.loads(file.read_text()) == {
        "status": "failed",
        "reason": "ZeroDivisionError: by zero",
        "metrics": {},
    }


@pytest.mark.parametrize("job_number", [None, 0])
@pytest.mark.parametrize(
    ("refused", "written", "kept"),
    [
        (True, ["config.yaml", "wandb/x"], False),
        (True, ["config.yaml", "metrics.jsonl"], True),
        (True, ["config.yaml", "checkpoints/step-0/x"], True),
        (False, ["config.yaml"], True),
        (False, [], False),
    ],
)
def test_a_run_refused_before_it_trained_leaves_no_folder_but_a_job_its_reason(
    tmp_path: Path, job_number: int | None, refused: bool, written: list[str], kept: bool
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    for name in written:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}\n")
    context = Context(folder, job_number, None if job_number is None else tmp_path, ())
    mark_failed(context, "the reason", refused=refused)
    if job_number is None:
        assert folder.exists() == kept
    if folder.exists():
        summary = json.loads((folder / "summary.json").read_text())
        assert (summary["status"], summary["reason"]) == ("failed", "the reason")
        assert (folder / "config.yaml").exists() == kept


@pytest.mark.parametrize("error", [RunError("reward exits"), SystemExit(0)])
def test_what_ends_a_run_though_nothing_was_wrong_with_its_command_fails(
    install: Install, error: BaseException
) -> None:
    def run(config: TrainConfig, context: Context) -> int:
        raise error

    install("train", run)
    assert main(["train"]) == 1


def test_a_folder_that_held_a_run_is_left_as_it_was(install: Install, tmp_path: Path) -> None:
    def run(config: TrainConfig, context: Context) -> int:
        raise UserError("holds another run")

    install("train", run)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "summary.json").write_text('{"status": "finished"}')
    assert main(["train", "hydra.run.dir=old"]) == 2
    assert (tmp_path / "old" / "summary.json").read_text() == '{"status": "finished"}'


def test_a_sweep_survives_a_failed_job_and_ends_with_a_table(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contexts = []

    def run(config: TrainConfig, context: Context) -> int:
        contexts.append(context)
        if config.objective.name == "rl":
            raise UserError("no luck")
        if config.beta > 0.2:
            raise ZeroDivisionError("by zero")
        finish(context, reward=0.987)
        return 0

    install("train", run)
    assert main(["train", "objective=rl,gdc", "-m", "beta=0.1,0.3", "seed=1"]) == 2
    (sweep,) = (tmp_path / "runs" / "sweep").iterdir()
    assert [context.directory for context in contexts] == [sweep / str(n) for n in range(4)]
    assert [context.job_number for context in contexts] == [0, 1, 2, 3]
    assert {context.sweep_directory for context in contexts} == {sweep}
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["job", "objective", "beta", "status"] in [row[:4] for row in rows]
    assert ["0", "rl", "0.1", "failed"] in rows
    assert ["2", "gdc", "0.1", "finished", "0.987", "0:01"] in rows
    assert ["3", "gdc", "0.3", "failed"] in rows
    assert ["job", "0:", "no", "luck"] in rows
    assert ["job", "3:", "ZeroDivisionError:", "by", "zero"] in rows


@pytest.mark.slow
@pytest.mark.usefixtures("default_signals")
def test_a_sweep_survives_whatever_a_job_raises_but_a_signal(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class OwnError(BaseException):
        pass

    errors = [KeyboardInterrupt("of a reward"), SystemExit(0), OwnError("own")]

    def run(config: TrainConfig, context: Context) -> int:
        (context.directory / "metrics.jsonl").write_text("{}\n")
        if config.seed < len(errors):
            raise errors[config.seed]
        finish(context, reward=0.5)
        return 0

    install("train", run)
    assert main(["train", "-m", f"seed=range({len(errors) + 1})"]) == 1
    (sweep,) = (tmp_path / "runs" / "sweep").iterdir()
    summaries = [json.loads((sweep / str(n) / "summary.json").read_text()) for n in range(4)]
    assert [s["status"] for s in summaries] == ["failed"] * len(errors) + ["finished"]
    reasons = [s["reason"] for s in summaries[:-1]]
    assert reasons == ["KeyboardInterrupt: of a reward", "SystemExit: 0", "OwnError: own"]
    assert capsys.readouterr().err.count("Traceback") == len(errors)


def test_jobs_of_a_sweep_share_a_folder_even_where_the_name_varies(
    install: Install, tmp_path: Path
) -> None:
    install("train", lambda _, context: finish(context, 1.0) or 0)
    assert main(["train", "-m", "name=a,b"]) == 0
    assert len(list(tmp_path.glob("runs/sweep/*/[01]/summary.json"))) == 2


def test_a_job_that_leaves_no_summary_has_not_finished(install: Install) -> None:
    install("train", lambda config, context: 0)
    assert main(["train", "-m", "beta=0.1,0.2"]) == 1


@pytest.mark.usefixtures("default_signals")
def test_an_interrupt_stops_the_sweep(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: TrainConfig, context: Context) -> int:
        if context.job_number == 1:
            signal.raise_signal(signal.SIGTERM)
        finish(context, reward=0.5)
        return 0

    install("train", run)
    assert main(["train", "-m", "beta=0.1,0.2,0.3"]) == 143
    out, err = capsys.readouterr()
    assert err == "klvi: interrupted by SIGTERM\n"
    assert "finished" in out
    assert not list(tmp_path.glob("runs/sweep/*/2"))


def test_ctrl_c_ends_with_one_line(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys, time, types
        from klvi.cli import main
        def run(config, context):
            print("running", flush=True)
            time.sleep(60)
        sys.modules["klvi.commands.train"] = types.SimpleNamespace(run=run)
        sys.exit(main(["train"]))
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As from a terminal, whatever the tests' own parent ignores.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "klvi: interrupted by SIGINT\n")


def test_a_job_enters_another_process(tmp_path: Path) -> None:
    """A cluster launcher pickles the job and the configuration, whose resolvers must be there."""
    (tmp_path / "job.pickle").write_bytes(pickle.dumps(Job("train")))
    script = (
        "import pickle, omegaconf; job = pickle.load(open('job.pickle', 'rb')); "
        "print(job.command, omegaconf.OmegaConf.has_resolver('klvi.id'))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ},
        capture_output=True,
        text=True,
    )
    assert result.stdout == "train True\n", result.stderr
