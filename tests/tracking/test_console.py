"""What a person sees, on a terminal and in a log."""

import io

import pytest
from rich.console import Console, Group

from klvi.evaluation.evaluator import Evaluation
from klvi.metrics.catalogue import METRICS
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.tracking.console import ConsoleTracker
from klvi.tracking.numbers import duration, number
from klvi.tracking.output import Output
from klvi.tracking.tables import evaluation_report, measurement_table, sample_table, shortfall


def console(terminal=False, width=80):
    return Console(
        file=io.StringIO(),
        force_terminal=terminal,
        force_interactive=terminal,
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
    )


def show(renderable, width=80):
    shown = console(width=width)
    shown.print(renderable)
    return shown.file.getvalue()


def track(config, directory, terminal, samples, measurements, exact=None):
    """Follow a run of 20 updates with two evaluations; returns what the terminal showed."""
    tracker = ConsoleTracker(Output(terminal))
    tracker.start(config.model_dump(mode="json"), directory)
    tracker.log_evaluation(0, measurements, samples)
    for update in range(1, 21):
        record = {"update": update, "objective/scores": update / 20, "objective/kl": 4.25}
        record |= {"objective/entropy": 28.5, "tokens_per_second": 5120.0}
        tracker.log_update(record | ({"eval/reward": 0.4375} if update == 20 else {}))
    tracker.log_evaluation(20, measurements, samples)
    tracker.finish({"status": "finished", "exact": exact or {}})
    return terminal.file.getvalue()


def test_without_a_terminal_there_are_plain_lines(config, tmp_path, samples, measurements):
    shown = track(config, tmp_path, console(), samples, measurements)
    assert "\x1b" not in shown
    assert "\r" not in shown
    progress = [line.split() for line in shown.splitlines() if line.endswith("tokens/s")]
    assert [line[0] for line in progress] == [str(update) for update in range(2, 20, 2)]
    assert progress[4][:4] == ["10", "0.500", "4.250", "28.500"]
    evaluations = [line.split() for line in shown.splitlines() if line.endswith("evaluated")]
    values = ["0.438", "1.500", "—"]  # an unavailable metric is not a blank
    assert [line[:4] for line in evaluations] == [["0", *values], ["20", *values]]
    assert "finished after 20 updates" in shown
    assert (tmp_path / "run.log").read_text().split() == shown.split()


def test_on_a_terminal_a_bar_moves(config, tmp_path, samples, measurements):
    shown = track(config, tmp_path, console(terminal=True), samples, measurements)
    assert "20/20" in shown
    assert "28.500 nats" in shown
    assert "5.1k tokens/s" in shown
    log = (tmp_path / "run.log").read_text()
    assert "\x1b" not in log
    assert "20/20" not in log
    assert "5.1k tokens/s" in log


def test_three_samples_are_shown_at_the_end(config, tmp_path, samples, measurements):
    shown = track(config, tmp_path, console(), samples, measurements)
    assert "Leo went to Paris." in shown
    assert "fourth" not in shown


def test_a_failed_run_says_so_and_stops_the_bar(config, tmp_path):
    terminal = console(terminal=True)
    tracker = ConsoleTracker(Output(terminal), resumed=7)
    tracker.start(config.model_dump(mode="json"), tmp_path)
    tracker.finish({"status": "failed"})
    shown = terminal.file.getvalue()
    assert "failed" in shown
    assert "after 7 updates" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back


def test_a_resumed_log_goes_on(config, tmp_path, samples, measurements):
    for _ in range(2):
        track(config, tmp_path, console(), samples, measurements)
    assert (tmp_path / "run.log").read_text().count("klvi train") == 2


def test_what_is_printed_beside_the_tracker_is_logged(tmp_path):
    output = Output(console())
    output.print("before there is a log")
    output.copy_to(tmp_path / "run.log")
    output.print("[0.1, x] " + "long " * 50)
    assert (tmp_path / "run.log").read_text() == "[0.1, x] " + "long " * 50 + "\n"


@pytest.mark.parametrize("width", [80, 100])
def test_every_metric_has_a_row_with_its_interval(measurements, width):
    shown = show(measurement_table(measurements), width)
    assert max(map(len, shown.splitlines())) <= width
    rows = [line.split() for line in shown.splitlines()]
    assert ["kl_prior", "KL(π‖π0),", "nats", "1.500", "[1.250,", "1.750]"] in rows
    assert ["made_up", "12,346", "[0.000,", "1.2e-04]"] in rows
    assert "95% interval" in shown
    reason = "kl_target_reverse unavailable: 3 of 4 samples violate the constraint"
    assert reason in " ".join(shown.split())
    assert "exact" not in shown


def test_exact_values_stand_beside_the_estimates(measurements):
    shown = show(measurement_table(measurements, {"eval/kl_prior": 1.625}, confidence=0.9))
    assert "90% interval" in shown
    row = next(line for line in shown.splitlines() if "kl_prior" in line)
    assert row.split()[3:5] == ["1.500", "1.625"]


def test_all_metrics_of_the_design_fit_80_columns_beside_exact_values():
    shown_here = [spec for spec in METRICS.values() if spec.estimated]
    names, groups = [spec.name for spec in shown_here], {spec.group for spec in shown_here}
    measurements = {name: Measurement(123.456, 0.00012, 12345.0, 512) for name in names}
    shown = show(measurement_table(measurements, dict.fromkeys(names, 123.456)))
    assert len(shown.splitlines()) == len(names) + len(groups) + 4
    assert "Other" not in shown


def test_samples_cannot_harm_the_terminal(samples):
    shown = show(sample_table(samples), width=120)
    assert "\x1b" not in shown
    row = next(line for line in shown.splitlines() if "[bold]" in line)
    text = ["One", "day,", "Ida\\nwent", "[bold]there[/bold]", "\\x1b[31m"]
    assert row.split() == ["0.250", "-3.000", "-4.500", *text]


def test_long_texts_are_cut_if_asked(samples):
    assert "Leo we…" in show(sample_table(samples, longest=7))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.000"),
        (-1.23456, "-1.235"),
        (0.00012, "1.2e-04"),
        (1234.5, "1,234"),
        (250.04, "250.0"),
        (None, "—"),
    ],
)
def test_numbers(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(5.9, "0:05"), (83, "1:23"), (3723, "1:02:03")])
def test_durations(seconds, shown):
    assert duration(seconds) == shown


GOLD = {
    "eval/gold": Measurement(0.5, 0.4, 0.6, 4),
    "target/gold": Measurement(0.75, 0.7, 0.8, 4),
    "target/gold_best": Measurement(1.0, 0.9, 1.1, 4),
    "eval/misspecified": Measurement(0.25, 0.2, 0.3, 4),
    "eval/badly_approximated": Measurement(0.0625, 0.0, 0.1, 4),
}


def test_scores_stand_under_headings_beside_their_like(measurements):
    further = {"eval/feature/female": GOLD["eval/gold"], "eval/score/fluent": GOLD["eval/gold"]}
    known = {"target/gold": 0.5, "target/gold_best": 0.5}
    shown = show(measurement_table({**measurements, **GOLD, **further}, known))
    headings = [line.strip() for line in shown.splitlines() if line[1:2].isalpha()]
    places = [headings.index(name) for name in ("Reward", "Features", "Against the prior", "Gold")]
    assert places == sorted(places)
    rows = [line.split() for line in shown.splitlines()]
    assert ["score/fluent", "mean", "0.500", "—", "[0.400,", "0.600]"] in rows
    assert ["target/gold", "E_p", "0.750", "0.500", "[0.700,", "0.800]"] in rows
    assert max(map(len, shown.splitlines())) <= 80


def test_a_sentence_says_what_falls_short(config, tmp_path, samples, measurements):
    sentence = (
        "Of a shortfall of 0.312 in gold, 0.250 is the target's (misspecified) and 0.062 the "
        "policy's (badly approximated)."
    )
    assert str(shortfall(GOLD)) == sentence
    assert shortfall(measurements) is None
    gone = Unavailable("too few effective samples")
    assert shortfall({**GOLD, "eval/misspecified": gone}) is None
    tiny = Measurement(1e-4, 0.0, 0.1, 4)
    assert "and 0.000 the policy's" in str(shortfall({**GOLD, "eval/badly_approximated": tiny}))
    better = Measurement(-0.0625, -0.1, 0.0, 4)
    line = str(shortfall({**GOLD, "eval/badly_approximated": better}))
    assert line.endswith("(badly approximated): it has more gold than its target.")
    shown = track(config, tmp_path, console(), samples, {**measurements, **GOLD})
    assert sentence in " ".join(shown.split())


def test_gold_has_a_column_of_its_own_where_there_is_one(config, tmp_path, samples, measurements):
    assert "gold" not in track(config, tmp_path, console(), samples, measurements).splitlines()[3]
    config = config.model_copy(update={"gold": config.reward})
    shown = track(config, tmp_path, console(), samples, {**measurements, **GOLD})
    assert "gold=contains" in shown
    heading = next(line for line in shown.splitlines() if "update " in line)
    assert heading.split()[:3] == ["update", "reward", "gold"]


def test_the_way_to_the_target_is_told_once(samples, measurements):
    def told(path):
        evaluation = Evaluation(measurements, samples, path=path, prior_samples=64)
        return show(Group(*evaluation_report(evaluation, "title", 0.95)), 100)

    assert "of 64 samples of the prior, on the way to the target: 40 at 0.5, 9 at 1" in told(
        {0.5: 40.2, 1.0: 9.0}
    )
    assert "7 of 64 samples of the prior are in the target" in told({0.5: 7.0, 1.0: 7.0})
    assert "samples of the prior" not in told({})
