"""The log-likelihood of given texts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support import LetterReward, disturb

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.evaluation.evaluator import Evaluator
from klvi.evaluation.held_out import encoded, held_out
from klvi.evaluation.plan import Plan
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.policy.policy import Policy
from klvi.prompts.stream import PromptStream
from klvi.samplers.ancestral import Ancestral
from klvi.targets.empirical import Empirical
from klvi.targets.posterior import Posterior

NOTHING, AFTER_A = Context(0), Context(1, "a")
END = 4


def test_a_text_has_its_end_and_is_cut_at_the_longest(policy: Policy) -> None:
    pairs = [(NOTHING, "a b"), (AFTER_A, " c"), (NOTHING, "a b c d a")]
    found = encoded(policy.prior, pairs, 4)
    assert found.lengths.tolist() == [3, 2, 4]
    rows = zip(found.tokens.tolist(), found.lengths.tolist(), strict=True)
    assert [tokens[:length] for tokens, length in rows] == [[0, 1, END], [2, END], [0, 1, 2, 3]]
    assert found.prompt_tokens.tolist() == [[END, END], [END, 0], [END, END]]
    assert found.prompt_lengths.tolist() == [1, 2, 1]


def test_a_text_without_tokens_is_named(policy: Policy) -> None:
    with pytest.raises(UserError, match=r"^target\.path: text 'hello': model enumerable has no"):
        encoded(policy.prior, [(NOTHING, "hello")], 4)


@pytest.fixture
def empirical(tmp_path: Path) -> Empirical:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(f"{x} {y} {z}" for x in "abcd" for y in "abcd" for z in "abcd"))
    return Empirical(LetterReward(), str(file), held_out=0.5)


def test_policy_and_prior_are_measured_on_what_is_held_out(
    empirical: Empirical, policy: Policy
) -> None:
    disturb(policy)
    found = held_out(policy, empirical, 4, 0.95)
    completions = encoded(policy.prior, empirical.held_out_texts, 4)
    for name, model in (("held_out", policy), ("held_out_prior", Policy(policy.prior))):
        values = model.log_probs(completions).double().sum(1)
        metric = found[f"eval/{name}"]
        assert isinstance(metric, Measurement)
        assert metric.n == len(empirical.held_out_texts)
        assert metric.value == pytest.approx(float(values.mean()))
        error = float(values.std()) / len(values) ** 0.5
        assert metric.high - metric.low == pytest.approx(4 * error, rel=0.2)
    assert found["eval/held_out"] != found["eval/held_out_prior"]


def test_all_that_needs_p_is_unavailable_with_the_reason(
    empirical: Empirical, policy: Policy
) -> None:
    evaluator = Evaluator(
        policy, empirical, PromptStream([NOTHING]), Ancestral(4), plan=Plan(1, 64, 64)
    )
    metrics = evaluator.evaluate(0).metrics
    assert isinstance(metrics["eval/held_out"], Measurement)
    assert isinstance(metrics["eval/kl_prior"], Measurement)
    for name in ("kl_target_forward", "kl_target_reverse", "log_z", "ess"):
        metric = metrics[f"eval/{name}"]
        assert isinstance(metric, Unavailable)
        assert metric.reason == empirical.no_potential
    posterior = dataclasses.replace(evaluator, target=Posterior(LetterReward(), 0.2))
    assert "eval/held_out" not in posterior.evaluate(0).metrics
