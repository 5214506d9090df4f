"""A target with a fitted parameter, from the prior's samples to `eval run=`."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from support import NOWHERE, LetterReward, assembled, eval_config, records, train_config, weights
from torch import Tensor

from klvi.commands import eval as eval_command
from klvi.errors import UserError
from klvi.rewards.base import Reward
from klvi.runs import assembly
from klvi.runs.assembly import assemble_run
from klvi.runs.load import load_policy
from klvi.runs.schema import EvalConfig
from klvi.runs.target_state import write_target
from klvi.samples import Samples
from klvi.targets.base import Target
from klvi.training.checkpoint import Checkpoints
from klvi.training.loop import Loop

MEAN, FITS = 0.5, {0: 4000, 2: 500}


@dataclass(frozen=True)
class Tilt(Target):
    """p ∝ π0·exp(λ·r), λ such that E_p[r] is `mean`, by bisection on weighted samples."""

    name: ClassVar[str] = "tilt"
    reward: Reward
    beta: float = 1.0
    mean: float = MEAN
    fits: Mapping[int, int] = field(default_factory=lambda: FITS)
    tilt: float | None = None

    @property
    def scorers(self) -> Mapping[str, Reward]:
        return {"reward": self.reward}

    def log_potential(self, samples: Samples) -> Tensor:
        assert self.tilt is not None, "is fitted before it is used"
        return self.tilt * samples.reward.double()

    def samples_to_fit(self, update: int, updates: int = 1) -> int:
        return self.fits.get(update, 0)

    def fitted(self, samples: Samples) -> Tilt:
        reward = samples.reward.double()
        log_weight = samples.log_prior_sequence - samples.log_drawn
        low, high = -100.0, 100.0
        while high - low > 1e-12:
            middle = (low + high) / 2
            mean = float(((log_weight + middle * reward).softmax(0) * reward).sum())
            low, high = (middle, high) if mean < self.mean else (low, middle)
        return replace(self, tilt=(low + high) / 2)

    def state(self) -> dict[str, Any]:
        return {} if self.tilt is None else {"tilt": self.tilt}

    def with_state(self, state: dict[str, Any]) -> Tilt:
        return replace(self, tilt=state.get("tilt"))


@pytest.fixture(autouse=True)
def tilted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every configuration aims at a tilt of the letters' reward."""
    monkeypatch.setattr(assembly, "build_target", lambda *_: Tilt(LetterReward()))


def config_of(objective: str = "gdc", **changes: Any) -> Any:
    return train_config(
        objective={"name": objective},
        reward={"name": "letters"},
        updates=4,
        batch_size=32,
        evaluation={"samples": 32, "prior_samples": 32, "every": 1, "ess_floor": 2},
        checkpoint={"every": 1, "keep": 9},
        **changes,
    )


def eval_of(run: Path | None = None, **changes: Any) -> EvalConfig:
    return eval_config(config_of(**changes), run=run and str(run))


def tilt_of(folder: Path) -> float:
    return json.loads((folder / "target.json").read_text())["state"]["tilt"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "build_target", lambda *_: Tilt(LetterReward()))
        assemble_run(config_of(), folder).train()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_it_is_fitted_to_the_prior_before_the_first_evaluation(trained: Path) -> None:
    """To within 5 standard deviations of a mean over 4000 samples, 0.2 each at most."""
    start = records(trained)[0]
    assert start["exact/target/reward"] == pytest.approx(MEAN, abs=5 * 0.2 / 4000**0.5)
    assert abs(start["exact/reward"] - MEAN) > 0.05


def test_it_is_fitted_again_where_it_asks_for_it(trained: Path) -> None:
    means = [record["exact/target/reward"] for record in records(trained)]
    assert means[0] == means[1] == means[2] != means[3] == means[4]
    assert means[3] == pytest.approx(MEAN, abs=5 * 0.3 / 500**0.5)


def test_later_fits_are_to_policy_and_prior_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sample is weighed by the mixture, whichever of the two it comes from."""
    given: list[Samples] = []
    fitted = Tilt.fitted
    monkeypatch.setattr(
        Tilt, "fitted", lambda self, samples: (given.append(samples), fitted(self, samples))[1]
    )
    loop = assembled(config_of())
    loop.fit()
    loop.run()
    first, second = given
    assert torch.equal(first.log_drawn, first.log_prior_sequence)
    half = torch.logaddexp(second.log_policy_sequence, second.log_prior_sequence) - math.log(2)
    torch.testing.assert_close(second.log_drawn, half)
    apart = (second.log_policy_sequence - second.log_prior_sequence).abs()
    assert float(apart.max()) > 0.01


@pytest.mark.parametrize("objective", ["kl", "gdc"])
def test_objectives_forget_what_they_estimated_of_the_old_one(
    objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(objective)
    loop = assembled(config)
    resets: list[int] = []
    monkeypatch.setattr(loop.objective, "reset", lambda: resets.append(loop.update))
    loop.fit()
    fitted = loop.target
    loop.run()
    assert resets == [0, 2]
    assert fitted.state() != loop.target.state()


@pytest.mark.parametrize("update", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_resumed_run_has_the_target_bit_for_bit(
    update: int, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in the update in which the target was fitted again, and in the one after."""
    learn = Loop.learn

    def break_off(loop: Loop, *arguments: Any) -> Any:
        if loop.update == update:
            raise RuntimeError("broken off")
        return learn(loop, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "learn", break_off)
        with pytest.raises(RuntimeError, match="broken off"):
            assemble_run(config_of(), tmp_path).train()
    states = [
        torch.load(folder / f"checkpoints/step-{update}/state.pt", weights_only=True)["target"]
        for folder in (trained, tmp_path)
    ]
    assert states[0] == states[1] == {"tilt": tilt_of(tmp_path)}
    assert (tilt_of(tmp_path) == tilt_of(trained)) == (update == 3)
    assemble_run(config_of(), tmp_path).train()
    assert records(tmp_path) == records(trained)
    assert tilt_of(tmp_path) == tilt_of(trained)
    for name, weight in weights(trained).items():
        assert torch.equal(weight, weights(tmp_path)[name])


def test_eval_reads_it_and_never_fits_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tilt, "fitted", None)
    assert eval_command.run(eval_of(run), NOWHERE) == 0
    report = json.loads((run / "eval.json").read_text())
    last = records(run)[-1]
    assert report["exact"]["target/reward"] == last["exact/target/reward"]
    assert report["exact"]["eval/kl_target_forward"] == pytest.approx(
        last["exact/kl_target_forward"], abs=1e-9
    )


def test_another_target_than_the_runs_is_fitted_to_the_prior(run: Path) -> None:
    for config in (eval_of(), eval_of(run, beta=0.7)):
        evaluator, _ = load_policy(config)
        assert isinstance(evaluator.target, Tilt)
        assert evaluator.target.tilt is not None
        assert evaluator.target.tilt != tilt_of(run)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda text: text.replace('"tilt": ', '"tilt": 1'), "damaged .its checksum differs"),
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda text: "[]", "is damaged"),
        (lambda text: "{}", "is damaged"),
        (lambda text: None, "is missing"),
    ],
)
def test_a_state_that_is_not_the_runs_is_refused(spoil: Any, what: str, run: Path) -> None:
    file = run / "target.json"
    text = spoil(file.read_text())
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(UserError, match=rf"target\.json.* {what}"):
        load_policy(eval_of(run))


def test_a_target_without_a_state_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assemble_run(config_of(), tmp_path).train()
    assert not (tmp_path / "target.json").exists()
    newest = Checkpoints(tmp_path / "checkpoints").newest_whole()
    assert newest is not None
    assert torch.load(newest / "state.pt", weights_only=True)["target"] == {}


def test_all_that_scores_for_a_target_is_told_of_the_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[int] = []

    class Told(LetterReward):
        def check_columns(self, contexts: list[Any]) -> None:
            told.append(len(contexts))

    monkeypatch.setattr(assembly, "build_target", lambda *_: Tilt(Told()))
    assembly.assemble_evaluator(config_of(), adapted=False)
    assert told == [1]


def test_a_state_that_is_no_plain_data_is_refused(tmp_path: Path) -> None:
    for state in (float("nan"), torch.zeros(2), {1.5}):
        with pytest.raises(UserError, match=r"^target=tilt: its state\(\) cannot be kept as JSON"):
            write_target(Tilt(LetterReward(), tilt=state), tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
