"""`klvi.evaluate` gives the numbers of `klvi eval`, and shows them as it does."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support import LENGTH, LETTERS, LetterReward, disturb, eval_config, train_config

import klvi
from klvi.commands import eval as eval_command
from klvi.commands.context import Context as Job
from klvi.errors import UserError
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior
from klvi.policy.schema import LoraSection
from klvi.runs.assembly import assemble_run
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.samples import Draw

MEASURED: dict[str, Any] = {"samples": 64, "prior_samples": 48, "ess_floor": 2}
TARGET = klvi.targets.Posterior(klvi.rewards.Contains("a"), beta=0.2)


@pytest.fixture(scope="module")
def prior() -> Prior:
    return klvi.load_prior(
        "enumerable", letters=LETTERS, length=LENGTH, device="cpu", kernels="none"
    )


@dataclass(frozen=True)
class WithoutDensity(Sampler):
    ancestral: Ancestral = Ancestral()  # noqa: RUF009

    def sample(self, policy: Any, target: Any, contexts: Any, randomness: Any) -> Draw:
        draw = self.ancestral.sample(policy, target, contexts, randomness)
        samples = replace(draw.samples, log_density=None, texts=["<b>"] * len(draw.samples))
        return Draw(samples, represents="sampler", info={"<i>acceptance</i>": 0.25})


def evaluated(folder: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[Any, str]:
    """What `klvi eval` writes and prints."""
    config = eval_config(train_config(), **{"evaluation": MEASURED} | changes)
    config = config.model_copy(update={"out": str(folder / "out.json")})
    assert eval_command.run(config, Job(None, None, None, ())) == 0
    return json.loads((folder / "out.json").read_text()), capsys.readouterr().out


def test_a_prior_has_the_numbers_and_the_table_of_the_command(
    prior: Prior, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, printed = evaluated(tmp_path, capsys)
    found = klvi.evaluate(prior, TARGET, **MEASURED)
    assert {name: metric.to_json() for name, metric in found.items()} == report["metrics"]
    assert dict(found.exact) == report["exact"]
    assert found.exact["eval/kl_prior"] == 0
    table = str(found).splitlines()[1:]
    assert len(table) > 30
    assert "\n".join(table) in re.sub(r" +\n", "\n", printed)


@pytest.mark.slow
def test_a_policy_has_the_numbers_of_the_run(
    prior: Prior, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    assemble_run(train_config(evaluation=MEASURED), tmp_path / "run").train()
    report, _ = evaluated(tmp_path, capsys, run=str(tmp_path / "run"))
    policy = klvi.train(
        prior, TARGET, klvi.objectives.KL(), updates=2, batch_size=64, lora={"r": 8}
    )
    found = klvi.evaluate(policy, TARGET, **MEASURED)
    assert {name: metric.to_json() for name, metric in found.items()} == report["metrics"]
    assert found.exact == pytest.approx(report["exact"], abs=1e-9)


def test_it_is_a_mapping_with_intervals(prior: Prior) -> None:
    found = klvi.evaluate(prior, TARGET, **MEASURED)
    reward = found["reward"]
    assert isinstance(reward, Measurement)
    assert reward.low < reward.value < reward.high
    assert reward.n == 64
    assert found["eval/reward"] is reward
    assert set(found) == set(found.metrics)
    assert found["duplicates"] == found["eval/duplicates"]
    with pytest.raises(KeyError, match=r"eval/rewrad.*did you mean eval/reward\?"):
        found["eval/rewrad"]
    assert None not in found
    with pytest.raises(KeyError, match="3: no metric of that name"):
        found[3]  # type: ignore[index]
    assert all(m.value is None or m.low <= m.value <= m.high for m in found.values())
    assert Unavailable("why").value is None


def test_a_sampler_is_measured_in_the_policys_place(prior: Prior) -> None:
    found = klvi.evaluate(prior, TARGET, sampler=WithoutDensity(), **MEASURED)
    assert isinstance(found["entropy"], Unavailable)
    assert found.info == {"<i>acceptance</i>": 0.25}
    assert found.title == "WithoutDensity from the prior enumerable"
    itself = klvi.evaluate(prior, TARGET, sampler=klvi.samplers.Ancestral(), **MEASURED)
    assert itself.metrics == klvi.evaluate(prior, TARGET, **MEASURED).metrics


def test_what_a_notebook_shows_is_escaped(prior: Prior) -> None:
    found = klvi.evaluate(prior, TARGET, sampler=WithoutDensity(), **MEASURED)
    assert "<i>acceptance</i>: 0.25" in str(found)
    assert repr(found) == str(found)
    shown = replace(found, title="<script>\x1b[31m")._repr_html_()
    assert re.findall("<[^>]*>", shown) == ['<pre style="line-height: 1.2">', "</pre>"]
    assert "&lt;script&gt;\\x1b[31m" in shown


def test_the_table_is_as_wide_as_the_terminal(
    prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = klvi.evaluate(prior, TARGET, **MEASURED)
    monkeypatch.setitem(os.environ, "COLUMNS", "60")
    assert max(map(len, str(found).splitlines())) <= 60


def test_a_prompt_that_is_cut_is_warned_of(prior: Prior) -> None:
    cut = replace(prior, max_prompt_tokens=2)
    objective = klvi.objectives.KL()
    for call in (
        lambda: klvi.evaluate(cut, TARGET, prompts=["a", "a b c d"], **MEASURED),
        lambda: klvi.train(cut, TARGET, objective, prompts=["a b c d"], updates=1, batch_size=8),
    ):
        with pytest.warns(UserWarning, match="the beginning of 1 of . prompts is cut") as told:
            call()
        assert told[0].filename == __file__


def test_jupyter_is_given_the_text_too(
    prior: Prior, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = klvi.evaluate(prior, TARGET, **MEASURED)
    text = str(found)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert str(found) == text
    assert capsys.readouterr() == ("", "")


def test_prompts_are_contexts(prior: Prior) -> None:
    target = klvi.targets.Constraint(LetterReward(), 0.3)
    found = klvi.evaluate(prior, target, prompts=["a", "b", "a"], samples=192)
    assert sorted({context.row for context in found.samples.contexts}) == [0, 1, 2]
    assert found.exact["eval/log_z"] is not None
    longer = replace(prior, max_new_tokens=40)  # too many to be listed
    assert klvi.evaluate(longer, target, samples=40).exact == {}


def test_a_moved_policy_is_told_from_its_prior(prior: Prior) -> None:
    policy = disturb(Policy(prior, LoraSection(r=4)), 0.1)
    found = klvi.evaluate(policy, TARGET, **MEASURED)
    assert found.title == "a policy on enumerable"
    assert found.exact["eval/kl_prior"] > 1e-4  # type: ignore[operator]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"samples": 0}, "samples=0: must be a whole number, at least 2"),
        ({"confidence": 1.5}, "confidence=1.5: must be a number, greater than 0 and less than 1"),
        ({"sampler": "smc"}, r"sampler: is str; give a sampler, such as klvi.samplers.Ancestral"),
        ({"sampler": klvi.samplers.Mixture}, "sampler: is the class Mixture; give a sampler"),
        ({"target": 3}, "target: is int; give a target"),
        ({"policy": "gpt2"}, "prior: is str; give what klvi.load_prior returns"),
    ],
)
def test_a_wrong_argument_is_named(prior: Prior, wrong: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        klvi.evaluate(**{"policy": prior, "target": TARGET} | wrong)


def test_the_support_is_part_of_the_problem(policy: Policy) -> None:
    with pytest.raises(UserError, match="longest completion is not known"):
        klvi.evaluate(policy, TARGET)


def test_gold_is_measured_beside_the_target(prior: Prior) -> None:
    def many(texts: list[str]) -> list[float]:
        return [float(text.count("b")) for text in texts]

    found = klvi.evaluate(prior, TARGET, gold=many, pass_k=[2], **MEASURED)
    names = {"eval/gold", "eval/misspecified", "eval/badly_approximated", "eval/pass_at_2"}
    names |= {"target/gold", "target/gold_best"}
    assert names < set(found)
    assert found.exact["target/gold_best"] > found.exact["target/gold"]
    assert "Of a shortfall of " in str(found)
    assert set(klvi.evaluate(prior, TARGET, **MEASURED)) == set(found) - names
    with pytest.raises(UserError, match="gold: is int"):
        klvi.evaluate(prior, TARGET, gold=3, **MEASURED)
    with pytest.raises(UserError, match=r"pass_k=2: must be a list"):
        klvi.evaluate(prior, TARGET, pass_k=2, **MEASURED)
    assert any(line.startswith("effective of ") for line in str(found).splitlines())
