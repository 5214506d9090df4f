"""Metrics of installed packages: seen by everything that reads the catalogue."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support import made_samples, train_config
from toy import graded_reward, problem, random_toy, sequences

from klvi.metrics.catalogue import METRICS
from klvi.metrics.evaluate import evaluate
from klvi.metrics.measurement import Measurement
from klvi.metrics.metric import MetricSpec
from klvi.samples import Draw
from klvi.tracking.base import exact_entries, flatten
from klvi.tracking.console import ConsoleTracker
from klvi.tracking.output import Output
from klvi.tracking.sweep import sweep_table
from klvi.tracking.tables import measurement_table

CODE = """
from klvi.metrics import estimators
from klvi.metrics.metric import MetricSpec, unit_interval

def starts_with_a():
    return MetricSpec(
        name="eval/starts_with_a",
        unit="share",
        group="Letters",
        meaning="of samples",
        exact=lambda listed: float(listed.policy @ (listed.sequences.tokens[:, 0] == 0).double()),
        estimate=lambda d: estimators.bounded_mean((d.tokens[:, 0] == 0).double(), d.sampling),
        interval=unit_interval,
        bounded=True,
        column="a first",
    )

SPEC = MetricSpec(
    name="eval/largest", unit="tokens", group="Letters", meaning="", exact=lambda _: 1.0,
    needs=frozenset({"enumeration"}),
)
TAKEN = MetricSpec(
    name="eval/reward", unit="", group="", meaning="", exact=lambda _: 1.0,
    needs=frozenset({"enumeration"}),
)
NO_METRIC = dict
"""
ENTRIES = """[klvi.metrics]
starts = letters_package:starts_with_a
largest = letters_package:SPEC
taken = letters_package:TAKEN
other = letters_package:NO_METRIC
gone = letters_package.gone:SPEC
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with metrics, where Python looks for packages."""
    (tmp_path / "letters_package.py").write_text(CODE)
    info = tmp_path / "letters_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: letters-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)
    vars(METRICS).pop("_specs", None)
    yield
    sys.modules.pop("letters_package", None)
    vars(METRICS).pop("_specs", None)


def case_and_metrics():
    prior, space = random_toy(1), sequences()
    reward = graded_reward(space)
    case = problem(random_toy(2), prior, reward, reward)
    rows = case.draw(case.log_policy, 400, torch.Generator().manual_seed(0))
    return case, evaluate(Draw(case.samples(rows)), case.log_target[rows], beta=1.0)


@pytest.mark.usefixtures("installed")
def test_estimates_exact_values_tables_and_records_have_it() -> None:
    """An interval of 95%: it misses in one choice of seeds of 20."""
    case, metrics = case_and_metrics()
    exact = case.exact(1.0)
    found = metrics["eval/starts_with_a"]
    assert isinstance(found, Measurement)
    assert found.low < exact["eval/starts_with_a"] < found.high
    assert exact["eval/largest"] == 1.0
    assert "eval/largest" not in metrics
    assert flatten(metrics)["eval/starts_with_a"] == found.value
    known = {name: value for name, value in exact.items() if isinstance(value, float)}
    assert "exact/starts_with_a" in exact_entries(known)
    screen = Console(width=100, file=io.StringIO())
    screen.print(measurement_table(metrics, known))
    shown = screen.file.getvalue()
    assert "Letters" in shown
    assert "starts_with_a" in shown
    assert "Other" not in shown


@pytest.mark.usefixtures("installed")
def test_a_sweeps_table_has_its_column() -> None:
    summary = {"status": "finished", "metrics": {"eval/starts_with_a": {"value": 0.125}}}
    screen = Console(width=200, file=io.StringIO())
    screen.print(sweep_table([{"beta": "1"}], [summary]))
    shown = screen.file.getvalue()
    assert "a first" in shown
    assert "0.125" in shown


@pytest.mark.usefixtures("installed")
def test_a_runs_lines_have_its_column(tmp_path: Path) -> None:
    out = io.StringIO()
    tracker = ConsoleTracker(Output(Console(width=200, file=out)))
    tracker.start(train_config().model_dump(mode="json"), tmp_path)
    tracker.log_evaluation(
        0, {"eval/starts_with_a": Measurement(0.125, 0.0, 1.0, 8)}, made_samples([1, 2])
    )
    assert "a first" in out.getvalue()
    assert "0.125" in out.getvalue()


@pytest.mark.usefixtures("installed")
def test_what_cannot_be_loaded_costs_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert METRICS["eval/reward"].unit == "the reward's"
    assert "eval/starts_with_a" in METRICS
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert any("other (letters_package:NO_METRIC)" in line and "dict" in line for line in lines)
    assert any("gone (letters_package.gone:SPEC)" in line for line in lines)
    assert any("eval/reward" in line and "taken" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"needs": frozenset({"luck"})}, "needs luck"),
        ({"exact": None}, "neither an estimator"),
        ({"needs": frozenset()}, "needs enumeration"),
        ({"weighted": lambda _: None}, "need"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(changes, reason) -> None:
    values = {"name": "m", "unit": "", "group": "", "meaning": "", "exact": lambda _: 1.0}
    values["needs"] = frozenset({"enumeration"})
    with pytest.raises(ValueError, match=reason):
        MetricSpec(**{**values, **changes})
