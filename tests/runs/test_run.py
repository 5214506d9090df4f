"""However a run ends, its complete updates are kept, and a resume goes on as if nothing was."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import SHORT, records, summary, train_config, weights

from klvi import interruption
from klvi.evaluation.evaluator import Evaluator
from klvi.interruption import Interruption
from klvi.runs.assembly import assemble_evaluator, assemble_run
from klvi.runs.load import find_adapter
from klvi.runs.schema import TrainConfig
from klvi.samplers.ancestral import Ancestral
from klvi.tracking.base import flatten
from klvi.training.checkpoint import Checkpoints
from klvi.training.loop import Loop
from klvi.training.optimisation import Optimisation

# Of each its objective, its proposal and its optimiser.
OBJECTIVES = {
    "kl": ("kl", "policy", "adamw"),
    "kl muon": ("kl", "policy", "muon"),
    "gdc": ("gdc", "policy", "adamw"),
    "adaptive": ("gdc", "adaptive", "adamw"),
    "mixture": ("gdc", "mixture", "muon"),
}
STAGES: dict[str, tuple[type, str]] = {
    "rolling out": (Ancestral, "complete"),
    "scoring": (Loop, "roll_out"),
    "renewing the proposal": (Loop, "_renew_proposal"),
    "stepping": (Optimisation, "step"),
    "advancing": (Optimisation, "advance"),
    "evaluating": (Evaluator, "measure"),
    "saving": (Checkpoints, "save"),
}
# Where a run is broken off, and whether after that.
CASES = [
    *(("adaptive", stage, True) for stage in STAGES),
    *(("kl", stage, False) for stage in ("stepping", "evaluating")),
    ("gdc", "stepping", True),
    *((other, "saving", False) for other in ("kl", "kl muon", "mixture")),
]
FAST = {("gdc", "stepping", True)}


@pytest.fixture(autouse=True)
def watched(default_signals: None) -> Any:
    with interruption.watched():
        yield


def config_of(objective: str) -> Any:
    name, proposal, algorithm = OBJECTIVES[objective]
    return train_config(
        objective={"name": name},
        proposal={"name": proposal},
        optim={"algorithm": algorithm},
        updates=3,
        **SHORT,
    )


def break_off(
    monkeypatch: pytest.MonkeyPatch, stage: str, action: Callable[[], object], *, after: bool
) -> None:
    """Do `action` before or after the stage's first call in or after the second update."""
    owner, name = STAGES[stage]
    method, step, steps = getattr(owner, name), Loop.step, [0]

    def counted(loop: Loop) -> Any:
        steps[0] += 1
        return step(loop)

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        due = steps[0] == 2
        if due:
            steps[0] = 9
        if due and not after:
            action()
        result = method(self, *arguments, **named)
        if due and after:
            action()
        return result

    monkeypatch.setattr(Loop, "step", counted)
    monkeypatch.setattr(owner, name, call)


def end(folder: Path, objective: str) -> BaseException:
    with pytest.raises((Exception, KeyboardInterrupt)) as raised:
        assemble_run(config_of(objective), folder).train()
    return raised.value


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def train(objective: str) -> Path:
        if objective not in folders:
            folders[objective] = tmp_path_factory.mktemp(objective)
            assemble_run(config_of(objective), folders[objective]).train()
        return folders[objective]

    return train


@pytest.mark.parametrize(
    ("objective", "stage", "after"),
    [case if case in FAST else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_an_interrupted_run_goes_on_as_if_it_never_was(
    objective: str,
    stage: str,
    after: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unbroken: Callable[[str], Path],
) -> None:
    whole = unbroken(objective)
    with monkeypatch.context() as patch:
        break_off(patch, stage, lambda: signal.raise_signal(signal.SIGTERM), after=after)
        error = end(tmp_path, objective)
    assert isinstance(error, Interruption)
    done = summary(tmp_path)["update"]
    assert done == (2 if stage in {"evaluating", "saving"} else 1)
    assert (tmp_path / f"checkpoints/step-{done}").is_dir()
    assert summary(tmp_path)["status"] == "interrupted"
    assert summary(tmp_path)["reason"] == f"interrupted by SIGTERM after update {done}"
    assert [record["update"] for record in records(tmp_path)] == list(range(done + 1))
    interruption._watch.noted = None
    assemble_run(config_of(objective), tmp_path).train()
    assert summary(tmp_path)["status"] == "finished"
    assert records(tmp_path) == records(whole)
    assert weights(tmp_path).keys() == weights(whole).keys()
    for name, weight in weights(whole).items():
        assert torch.equal(weights(tmp_path)[name], weight)


def best_config() -> TrainConfig:
    """Of a run that overshoots: its last policy is not its best."""
    return train_config(
        objective={"name": "rl"},
        updates=4,
        seed=1,
        optim={"lr": 0.02},
        **{**SHORT, "checkpoint": {"every": 2, "keep": 1, "best": "eval/reward"}},
    )


def test_the_best_policy_becomes_the_adapter_and_is_measured_on_fresh_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = best_config()
    assemble_run(config, tmp_path).train()
    rewards = [record["eval/reward"] for record in records(tmp_path)]
    update = rewards.index(max(rewards))
    assert rewards[update] > rewards[-1]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        f"best-{update}",
        "step-4",
    ]
    found = summary(tmp_path)
    assert found["best"] == {"update": update, "metric": "eval/reward", "value": max(rewards)}
    assert found["update"] == 4
    assert "finished after 4 updates" in capsys.readouterr().out
    evaluator = assemble_evaluator(config, adapted=True)
    evaluator.policy.load_adapter(find_adapter(tmp_path))
    same = evaluator.measure(0)[0]
    assert flatten(same).items() <= records(tmp_path)[update].items()
    fresh = replace(evaluator, seed=config.evaluation.seed + 1).measure(0)[0]
    assert found["metrics"] == {name: metric.to_json() for name, metric in fresh.items()}
    assert fresh != same


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stepping", "evaluating", "saving"])
def test_the_best_policy_outlives_an_interruption(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    assemble_run(best_config(), whole).train()
    with monkeypatch.context() as patch:
        break_off(patch, stage, lambda: signal.raise_signal(signal.SIGTERM), after=False)
        with pytest.raises(Interruption):
            assemble_run(best_config(), broken).train()
    assert "best" not in summary(broken)
    interruption._watch.noted = None
    assemble_run(best_config(), broken).train()
    assert {**summary(broken), "seconds": 0} == {**summary(whole), "seconds": 0}
    for name, weight in weights(whole).items():
        assert torch.equal(weights(broken)[name], weight)
