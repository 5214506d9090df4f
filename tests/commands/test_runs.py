"""`klvi runs`: what is listed, in what order, and how it is shown."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from stored_runs import METRICS, estimate, stored_run

from klvi.commands import runs
from klvi.commands.runs import main
from klvi.config.command_line import parse
from klvi.config.run_filters import METRICS as COLUMNS
from klvi.config.run_filters import known_keys
from klvi.errors import UserError
from klvi.metrics.catalogue import METRICS as CATALOGUE
from klvi.runs.schema import TrainConfig
from klvi.tracking.output import Output

KL = "runs/kl/2026-01-31_12-00-00-a1b2c3"
GDC = "runs/gdc/2026-02-01_12-00-00-b1b2c3"
SWEPT = "runs/sweep/2026-02-02_12-00-00-c1b2c3/0"
KILLED = "runs/kl/2026-02-03_12-00-00-d1b2c3"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four runs, each a day younger than the one before."""
    monkeypatch.chdir(tmp_path)
    stored_run(tmp_path / KL, beta=0.1)
    gdc = {"objective": {"name": "gdc"}, "target": {"name": "constraint"}}
    stored_run(tmp_path / GDC, started="2026-02-01T12:00:00+00:00", name="gdc", beta=0.1, **gdc)
    better = METRICS | {"eval/reward": estimate(0.99)}
    stored_run(
        tmp_path / SWEPT,
        started="2026-02-02T12:00:00+00:00",
        name="sweep",
        beta=0.3,
        metrics=better,
        reward={"name": "contains", "text": "a, b"},
    )
    stored_run(tmp_path / KILLED, None, started="2026-02-03T12:00:00+00:00", saved=25, beta=0.1)
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    line = parse(["runs", *arguments, "--json"])
    assert main(line.words[1:], line.options) == 0
    out, err = capsys.readouterr()
    assert err == ""
    objects: list[dict[str, Any]] = json.loads(out)
    return objects


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    line = parse(["runs", *arguments])
    assert main(line.words[1:], line.options) == 0
    return capsys.readouterr().out


def problems(*arguments: str) -> tuple[str, ...]:
    line = parse(["runs", *arguments])
    with pytest.raises(UserError) as raised:
        main(line.words[1:], line.options)
    return raised.value.problems


@pytest.mark.parametrize(
    ("filters", "folders"),
    [
        ([], [KILLED, SWEPT, GDC, KL]),
        (["objective=kl"], [KILLED, SWEPT, KL]),
        (["objective=kl", "beta=0.1,1e-9"], [KILLED, KL]),
        (["beta=0.3,0.1", "status=finished"], [SWEPT, GDC, KL]),
        (["name=gdc,sweep"], [SWEPT, GDC]),
        (["status=stopped"], [KILLED]),
        (["reward.text='a, b'"], [SWEPT]),
        (["reward.text='a, b','a'", "status=finished"], [SWEPT, GDC, KL]),
        (["lora.targets=null", "objective.clip=0.2"], [KILLED, SWEPT, KL]),
        (["lora.targets=[q,v]"], []),
        (["root=runs/sweep"], [SWEPT]),
        (["sort=folder"], [GDC, KL, KILLED, SWEPT]),
        (["sort=-beta"], [SWEPT, GDC, KILLED, KL]),
        (["sort=-eval/reward", "status=finished"], [SWEPT, GDC, KL]),
        (["sort=eval/reward"], [GDC, KL, SWEPT, KILLED]),
    ],
)
def test_filters_choose_and_keys_sort(
    filters: list[str], folders: list[str], made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [run["folder"] for run in listed(capsys, *filters)]
    if filters == ["sort=-beta"]:  # those that are equal may stand in any order
        assert (found[0], set(found)) == (SWEPT, set(folders))
    else:
        assert found == folders


def test_an_object_of_a_run(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = listed(capsys, "beta=0.3")
    config = yaml.safe_load((made / SWEPT / "config.yaml").read_text())
    assert run == {
        "folder": SWEPT,
        "name": "sweep",
        "status": "finished",
        "reason": None,
        "started": "2026-02-02T12:00:00+00:00",
        "update": 50,
        "updates": 50,
        "seconds": 75.2,
        "metrics": METRICS | {"eval/reward": estimate(0.99)},
        "exact": {},
        "config": config,
    }


def test_json_is_json_whatever_a_folder_holds(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = '{"status": "failed", "reason": "\\u001b[31m", "metrics": {"x": {"value": NaN}}}'
    (made / KL / "summary.json").write_text(summary)
    config = (made / GDC / "config.yaml").read_text().replace("beta: 0.1", "beta: .inf")
    (made / GDC / "config.yaml").write_text(config)
    line = parse(["runs", "--json"])
    main(line.words[1:], line.options)
    out = capsys.readouterr().out
    assert "\x1b" not in out

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    runs = {run["folder"]: run for run in json.loads(out, parse_constant=refuse)}
    assert runs[KL]["metrics"]["x"]["value"] is None
    assert runs[GDC]["status"] == "broken"
    assert runs[GDC]["reason"].startswith("config.yaml: beta=inf: must be ")


def test_a_run_of_an_earlier_version_has_todays_keys(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((made / KL / "config.yaml").read_text())
    rollout = {"max_new_tokens": config.pop("max_new_tokens"), "batch_size": 7}
    del config["engine"], config["proposal"], config["samples_per_prompt"]
    config["objective"]["proposal"] = "policy"
    (made / KL / "config.yaml").write_text(yaml.safe_dump(config | {"rollout": rollout}))
    (made / KL / "manifest.json").unlink()
    (run,) = listed(capsys, "engine.batch_size=7", "proposal=policy")
    assert (run["folder"], run["status"]) == (KL, "finished")
    assert problems("rollout.batch_size=7") == ("rollout.batch_size: is now engine.batch_size",)


def test_a_table_for_a_pipe_has_a_line_per_run(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    title, *lines = shown(capsys).splitlines()
    assert title == "4 runs in runs/ reward=contains model=enumerable seed=0"
    rows = [line.split() for line in lines if line.strip().startswith("runs/")]
    assert rows[0] == [KILLED, "stopped", "25/50", "kl", "posterior", "0.1"]
    assert rows[2] == [
        *(GDC, "finished", "50", "gdc", "constraint", "0.1"),
        *("0.900", "4.400", "—"),
    ]
    assert f"klvi resume run={KILLED} goes on" in lines[-1]


def test_a_terminal_of_80_columns_is_enough(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    terminal = Console(file=file, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(runs, "Output", lambda: Output(terminal))
    line = parse(["runs", "status=finished"])
    main(line.words[1:], line.options)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    place = next(i for i, text in enumerate(lines) if text.strip().startswith(GDC))
    assert lines[place].split() == [GDC, "finished", "50", "0.900", "4.400", "—"]
    assert lines[place + 1].split() == ["gdc", "constraint", "beta=0.1"]


def test_metrics_are_columns(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "metrics=kl_prior,eval/reward", "beta=0.3")
    assert text.splitlines()[2].split() == ["run", "status", "update", "kl_prior", "reward"]
    assert text.splitlines()[4].split() == [SWEPT, "finished", "50", "4.400", "0.990"]


def test_names_and_times_are_told_where_folders_do_not(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored_run(made / "runs" / "mine", name="paris")
    text = shown(capsys, "name=paris")
    assert "name=paris started=2026-01-31 " in text.splitlines()[0]


def test_what_is_broken_or_failed_says_why(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        stored_run(made / f"runs/{number}", "failed", reason=f"it \x1b[31m is {number}")
    (made / KL / "config.yaml").write_text("model: [")
    text = shown(capsys)
    assert "it \\x1b[31m is 3" in text
    assert "and 4 more, whose reasons --json tells" in text
    assert shown(capsys, "status=broken").splitlines()[0] == "1 run in runs/"


def test_a_foreign_configuration_is_broken(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = "engine: 3\nrollout: {engine: fast}\nobjective: [kl]\nupdates: many\n...\n"
    (made / KL / "config.yaml").write_text(config)
    (run,) = listed(capsys, "status=broken")
    assert (run["folder"], run["config"]["engine"]) == (KL, 3)
    assert run["reason"].startswith("config.yaml: ")
    assert f"{KL}: config.yaml: " in shown(capsys, "status=broken")


def test_nothing_to_list(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(capsys, "beta=7") == "none of the 4 runs in runs/ has beta=7\n"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert shown(capsys) == "no runs in runs/; klvi train makes one\n"
    assert listed(capsys) == []


def test_all_that_is_wrong_is_told(made: Path) -> None:
    assert problems("objectiv=kl", "status=finishd", "beta", "+a=1", "name={") == (
        "beta: give KEY=VALUE, such as objective=kl",
        "+a=1: give KEY=VALUE, such as objective=kl",
        "name={: cannot be read; put quotes around the value",
        "objectiv: unknown key; did you mean objective?",
        "status=finishd: must be one of finished, running, stopped, interrupted, failed, broken; "
        "did you mean finished?",
    )
    assert problems("root=nowhere", "-m") == (
        "--multirun: klvi runs has no use for it",
        "root=nowhere: no such folder",
    )
    assert problems("sort=eval/rewrd", "metrics=eval/rewrd") == (
        "metrics=eval/rewrd: no run has it; did you mean eval/reward?",
        "sort=eval/rewrd: unknown key; did you mean eval/reward?",
    )
    assert problems("beta=interval(0,1)") == (
        "beta=interval(0,1): cannot be read; put quotes around the value",
    )


def test_headings_are_those_of_the_catalogue() -> None:
    assert {name: CATALOGUE[name].column for name in COLUMNS} == COLUMNS


def test_every_key_of_a_configuration_is_known() -> None:
    known = set(known_keys(TrainConfig))
    assert {"objective.clip", "reward.words", "model.letters", "optim.lr", "target"} <= known


def test_a_number_beyond_all_floats_is_no_metric(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads((made / KL / "summary.json").read_text())
    summary["metrics"]["eval/reward"] = {"value": 10**400}
    (made / KL / "summary.json").write_text(json.dumps(summary))
    folders = [run["folder"] for run in listed(capsys, "sort=eval/reward")]
    assert folders.index(GDC) < folders.index(SWEPT) < folders.index(KL)
    assert KL in shown(capsys)
