"""The scripts that measure what README says still run, and count what they say they count."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from scripts import architectures, coverage, gdc_defaults, letter_rewards, paris_seeds
from scripts.bench import tables
from scripts.bench.run import compare
from scripts.bench.workload import Workload


@pytest.mark.slow
@pytest.mark.trl_ppo
def test_both_sides_of_the_benchmark_do_the_same_work() -> None:
    row = compare(Workload("tiny", 4, 5, updates=2, warmup=1), ("klvi", "trl"))
    for side in row.sides.values():
        assert side.tokens == [20, 20]
        assert len(side.seconds) == len(side.cpu_seconds) == 2
        assert 0 < side.stage("update") < side.wall
        assert 0 < side.stage("generation") < side.wall
        assert side.peak > 0
    assert "**ratio**" in tables.comparison([row])


def test_rewards_of_letters() -> None:
    texts = ["a b c", "b b", "", "a b b a"]
    prompts = [""] * 4
    assert letter_rewards.distinct(texts, prompts) == pytest.approx([0.6, 0.2, 0, 0.4])
    assert letter_rewards.share_of_b(texts, prompts) == pytest.approx([1 / 3, 1, 0, 0.5])
    assert letter_rewards.length(texts, prompts) == pytest.approx([0.6, 0.4, 0, 0.8])
    assert letter_rewards.alternation(texts, prompts) == pytest.approx([0.5, 0, 0, 0.5])
    assert letter_rewards.palindrome(texts, prompts) == pytest.approx([1 / 3, 1, 0, 1])
    scores = letter_rewards.chaos(texts, prompts)
    assert len(set(scores)) == 4
    assert all(0 <= score < 1 for score in scores)


@pytest.mark.slow
@pytest.mark.parametrize("name", gdc_defaults.CONSTRAINTS)
def test_constraints_of_gdc_have_the_base_rates_it_is_held_to(name: str) -> None:
    loop, exact = gdc_defaults.assembled(name, ["updates=1", "batch_size=64"])
    rate = gdc_defaults.base_rate(exact)
    assert 0.02 <= rate <= 0.5
    forward, outside, inside = gdc_defaults.divergences(exact)
    # The policy is still the prior.
    assert forward == pytest.approx(-math.log(rate))
    assert outside == pytest.approx(1 - rate)
    assert inside == pytest.approx(0, abs=1e-12)
    assert gdc_defaults.trained(loop, exact).updates is None


def test_the_table_of_paris_has_means_ranges_and_what_is_missing() -> None:
    def metrics(value: float | None) -> dict[str, dict[str, float | None]]:
        return {f"eval/{name}": {"value": value} for name in paris_seeds.METRICS.values()}

    prior = {f"eval/{name}": None for name in paris_seeds.METRICS.values()}
    runs = [{"metrics": metrics(value)} for value in (1.0, 2.0, None)]
    lines = paris_seeds.table({**prior, "eval/reward": 0.25}, {"rl": runs}).splitlines()
    assert lines[2].startswith("| prior | 0.25 | — |")
    assert lines[3].startswith("| rl | 1.5 [1, 2] (1 unavailable) |")


def test_coverage_counts_intervals_that_hold_the_exact_value() -> None:
    loop, exact = coverage.training(["reward=letters", "model.letters=3", "model.length=3"])
    loop.step()
    cells = coverage.coverage(loop, exact, samples=60, repetitions=4)
    shares = {float(cell.split()[0]) for cell in cells.values() if not cell.startswith("—")}
    assert shares <= {0.0, 25.0, 50.0, 75.0, 100.0}
    assert {"eval/reward", "eval/kl_prior", "eval/log_z", "eval/distinct_2"} <= cells.keys()
    assert float(cells["eval/reward"]) >= 50


@pytest.mark.slow
def test_architectures_agree_with_plain_transformers_and_peft_or_are_refused(
    tmp_path: Path,
) -> None:
    row = architectures.measure("lfm2", tmp_path / "lfm2")
    assert row.policy is not None
    assert row.prior is not None
    assert max(row.policy, row.prior) < 1e-3
    refused = architectures.measure("bert", tmp_path / "bert")
    assert refused.policy is refused.prior is None
    assert "BertLMHeadModel" in refused.note
