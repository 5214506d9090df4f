"""The files of a run's folder."""

import json
import math

from klvi.tracking.base import flatten
from klvi.tracking.jsonl import JsonLines


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_object_per_update_readable_at_once(tmp_path, measurements):
    tracker = JsonLines()
    tracker.start({}, tmp_path / "run")
    tracker.log_update({"update": 0, **flatten(measurements)})
    tracker.log_update({"update": 1, "objective/kl": 0.5})
    first, second = lines(tmp_path / "run/metrics.jsonl")
    assert second == {"update": 1, "objective/kl": 0.5}
    assert (first["eval/kl_prior"], first["eval/kl_prior/low"]) == (1.5, 1.25)
    assert first["eval/kl_prior/high"] == 1.75
    assert first["eval/kl_target_reverse"] is None
    assert first["eval/kl_target_reverse/reason"] == "3 of 4 samples violate the constraint"


def test_numbers_that_are_not_finite_become_null(tmp_path):
    tracker = JsonLines()
    tracker.start({}, tmp_path)
    tracker.log_update({"update": 1, "a": math.nan, "b": [math.inf, 1.0], "c": {"d": -math.inf}})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text) == {"update": 1, "a": None, "b": [None, 1.0], "c": {"d": None}}


def test_samples_with_their_scores(tmp_path, samples):
    tracker = JsonLines()
    tracker.start({}, tmp_path)
    tracker.log_evaluation(20, {}, samples)
    rows = lines(tmp_path / "samples.jsonl")
    assert [row["text"] for row in rows] == samples.texts
    assert rows[1] == {
        "update": 20,
        "prompt": "One day, ",
        "text": samples.texts[1],
        "reward": 0.25,
        "log_policy": -3.0,
        "log_prior": -4.5,
    }


def interrupted(directory, samples):
    tracker = JsonLines()
    tracker.start({}, directory)
    for update in (0, 1, 2, 3):
        tracker.log_update({"update": update})
        tracker.log_evaluation(update, {}, samples)
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"update": 4, "obj')


def test_a_resume_drops_what_came_after_its_checkpoint(tmp_path, samples):
    interrupted(tmp_path, samples)
    tracker = JsonLines(resumed=2)
    tracker.start({}, tmp_path)
    tracker.log_update({"update": 3, "again": True})
    assert lines(tmp_path / "metrics.jsonl") == [
        {"update": 0},
        {"update": 1},
        {"update": 2},
        {"update": 3, "again": True},
    ]
    assert {row["update"] for row in lines(tmp_path / "samples.jsonl")} == {0, 1, 2}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.jsonl", "samples.jsonl"]


def test_a_run_from_the_start_keeps_no_older_records(tmp_path, samples):
    interrupted(tmp_path, samples)
    JsonLines().start({}, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_the_summary_is_whole_and_leaves_with_a_resume(tmp_path):
    tracker = JsonLines()
    tracker.start({}, tmp_path)
    summary = {"status": "finished", "metrics": {"eval/reward": {"value": 1.0, "n": 4}}}
    tracker.finish({**summary, "seconds": math.nan})
    assert json.loads((tmp_path / "summary.json").read_text()) == {**summary, "seconds": None}
    JsonLines(resumed=1).start({}, tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_further_scores_stand_together(tmp_path, samples):
    gold = {"gold": samples.reward + 1, "reward/part": samples.reward + 2}
    tracker = JsonLines()
    tracker.start({}, tmp_path)
    tracker.log_evaluation(1, {}, samples.with_scores({**samples.scores, **gold}))
    row = lines(tmp_path / "samples.jsonl")[1]
    assert row["reward"] == 0.25
    assert row["scores"] == {"gold": 1.25, "reward/part": 2.25}
