"""The best policy is kept beside the newest, whatever becomes of the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import disturb

from klvi.errors import UserError
from klvi.metrics.measurement import Measurement, Metric, Unavailable
from klvi.policy.policy import Policy
from klvi.training.best import Best, BestPolicy


def measured(value: float, name: str = "eval/reward") -> dict[str, Metric]:
    return {name: Measurement(value, value - 1, value + 1, 8)}


def kept(best: BestPolicy) -> list[str]:
    return sorted(path.name for path in best.directory.iterdir())


def offered(best: BestPolicy, policy: Policy, *values: float, first: int = 0) -> None:
    for update, value in enumerate(values, start=first):
        assert best.offer(policy, update, measured(value, best.metric)) is None


def test_the_earliest_of_the_best_is_kept_with_its_adapter(tmp_path: Path, policy: Policy) -> None:
    best = BestPolicy(tmp_path, "eval/reward")
    assert best.best() is None
    offered(best, policy, 0.5)
    disturb(policy)
    wanted = [parameter.clone() for parameter in policy.adapter_parameters()]
    offered(best, policy, 0.75, first=1)
    disturb(policy)
    offered(best, policy, 0.75, 0.625, first=2)
    found = BestPolicy(tmp_path, "eval/reward").best()
    assert found == Best(1, "eval/reward", 0.75)
    best.load(found, policy)
    pairs = zip(policy.adapter_parameters(), wanted, strict=True)
    assert all(torch.equal(mine, other) for mine, other in pairs)


@pytest.mark.parametrize(
    ("metric", "update"),
    [("eval/kl_target_forward", 1), ("eval/badly_approximated", 1), ("eval/score/b", 2)],
)
def test_of_divergences_and_repetition_the_smallest_is_best(
    metric: str, update: int, tmp_path: Path, policy: Policy
) -> None:
    best = BestPolicy(tmp_path, metric)
    offered(best, policy, 0.5, 0.25, 0.75)
    assert best.best() == Best(update, metric, [0.5, 0.25, 0.75][update])


def test_what_is_unavailable_is_left_out_with_a_line(tmp_path: Path, policy: Policy) -> None:
    best = BestPolicy(tmp_path, "eval/log_z")
    line = best.offer(policy, 1, {"eval/log_z": Unavailable("few samples")})
    assert line == "checkpoint.best=eval/log_z: update 1 is left out: few samples"
    assert best.best() is None


def test_what_the_run_does_not_measure_is_refused(tmp_path: Path, policy: Policy) -> None:
    best = BestPolicy(tmp_path, "eval/feature/women")
    with pytest.raises(UserError, match=r"not measured in this run; did you mean eval/feature/wom"):
        best.offer(policy, 0, measured(0.5, "eval/feature/woman"))


def test_a_run_that_goes_back_has_the_best_of_before(tmp_path: Path, policy: Policy) -> None:
    best = BestPolicy(tmp_path, "eval/reward")
    offered(best, policy, 0.25, 0.5)
    best.settle()
    assert kept(best) == ["best-1"]
    offered(best, policy, 0.375, 0.625, 0.75, first=2)
    assert kept(best) == ["best-1", "best-3", "best-4"]
    (tmp_path / "step-4").mkdir()
    best.go_back(3)
    assert kept(best) == ["best-1", "best-3", "step-4"]
    best.go_back(2)
    assert best.best() == Best(1, "eval/reward", 0.5)


@pytest.mark.parametrize("file", ["best.json", "adapter_model.safetensors"])
def test_a_damaged_one_is_told_and_not_taken(
    file: str, tmp_path: Path, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    best = BestPolicy(tmp_path, "eval/reward")
    offered(best, policy, 0.25, 0.5)
    (tmp_path / "best-1" / file).write_bytes(b"{}")
    assert best.best() == Best(0, "eval/reward", 0.25)
    damaged = tmp_path / "best-1" / file
    line = f"{damaged} is damaged (its checksum differs): it is not taken for the best"
    assert line in capsys.readouterr().err
