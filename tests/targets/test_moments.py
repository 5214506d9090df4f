"""Moments against exact sums over a small space (theory, sections 2, 6 and 8)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from categorical import drawn, kl, listed, random_prior
from support import LetterReward, assembled, command, train_config
from torch import Tensor

import klvi
from klvi.config.consistency import unmet_needs
from klvi.errors import UserError
from klvi.metrics.measurement import Measurement
from klvi.runs.assembly import assemble_evaluator
from klvi.runs.schema import TrainConfig
from klvi.samples import Samples
from klvi.targets.build import build_target
from klvi.targets.moments import Feature, Moments
from klvi.targets.schema import MomentsTarget
from klvi.training.fitting import fit_to_prior

REWARD = LetterReward()
PRIOR = random_prior()
BINARY = (torch.arange(60) % 7 == 0).double()
OTHER = (torch.arange(60) % 3 == 0).double()
GRADED = torch.linspace(-1, 2, 60).double()


def target(constraint: bool = False, **means: float) -> Moments:
    features = {name: Feature(REWARD, mean) for name, mean in means.items()}
    return Moments(REWARD, features, constraint=constraint)


def scores(**features: Tensor) -> dict[str, Tensor]:
    return {"reward": GRADED} | {f"feature/{name}": value for name, value in features.items()}


def probability(found: Moments, samples: Samples) -> Tensor:
    return found.log_unnormalised(samples).softmax(0)


def multiplier(found: Moments, name: str) -> Measurement:
    assert found.fit is not None
    return found.fit.multipliers[name]


@pytest.mark.parametrize("mean", [0.01, 0.5, 0.9, 1 - 1e-4])
def test_one_binary_feature_has_a_closed_form(mean: float) -> None:
    """λ = logit μ − logit m; KL(p‖π0) is that of two Bernoulli distributions."""
    samples = listed(PRIOR, scores(b=BINARY))
    found = target(b=mean).fitted(samples)
    rate = float(PRIOR.exp() @ BINARY)
    expected = math.log(mean / (1 - mean)) - math.log(rate / (1 - rate))
    assert multiplier(found, "b").value == pytest.approx(expected, abs=1e-6)
    p = probability(found, samples)
    bernoulli = kl(torch.tensor([mean, 1 - mean]), torch.tensor([rate, 1 - rate]))
    assert kl(p, PRIOR.exp()) == pytest.approx(bernoulli, rel=1e-4)


def test_several_features_have_their_means_and_pythagoras_holds() -> None:
    """KL(c‖π0) = KL(c‖p) + KL(p‖π0) for every c with the means."""
    samples = listed(PRIOR, scores(b=BINARY, o=OTHER, g=GRADED))
    found = target(b=0.6, o=0.5, g=1.1).fitted(samples)
    p = probability(found, samples)
    features = torch.stack([torch.ones(60), BINARY, OTHER, GRADED]).double()
    assert (features @ p).tolist() == pytest.approx([1, 0.6, 0.5, 1.1], abs=1e-6)
    noise = torch.randn(60, generator=torch.Generator().manual_seed(3)).double() * p
    inside = noise - p * (
        features.T @ torch.linalg.solve(features * p @ features.T, features @ noise)
    )
    c = p + 0.9 * inside / (inside / p).abs().max()
    assert float(c.min()) > 0
    assert kl(c, p) > 0.01
    assert kl(c, PRIOR.exp()) == pytest.approx(kl(c, p) + kl(p, PRIOR.exp()), abs=1e-6)


def test_a_mean_that_the_prior_has_costs_nothing() -> None:
    mean = float(PRIOR.exp() @ GRADED)
    found = target(g=mean).fitted(listed(PRIOR, scores(g=GRADED)))
    assert multiplier(found, "g").value == pytest.approx(0, abs=1e-7)


def test_a_hybrid_meets_both() -> None:
    samples = listed(PRIOR, scores(b=BINARY))
    found = target(constraint=True, b=0.4).fitted(samples)
    p = probability(found, samples)
    assert float(p[GRADED < 0.5].sum()) == 0
    assert float(p @ BINARY) == pytest.approx(0.4, abs=1e-6)
    inside = PRIOR.exp() * (GRADED >= 0.5)
    rate = float(inside @ BINARY / inside.sum())
    expected = math.log(0.4 / 0.6) - math.log(rate / (1 - rate))
    assert multiplier(found, "b").value == pytest.approx(expected, abs=1e-6)


def test_contexts_share_the_multipliers_and_their_means_are_averaged() -> None:
    """The second context repeats the space in another order of probabilities."""
    priors = torch.cat([PRIOR, PRIOR.flip(0)])
    doubled = {name: value.repeat(2) for name, value in scores(g=GRADED).items()}
    samples = listed(priors, doubled, torch.tensor([5] * 60 + [2] * 60))
    found = target(g=1.2).fitted(samples)
    log_target = found.log_unnormalised(samples).reshape(2, 60)
    means = log_target.softmax(1) @ GRADED
    assert abs(float(means[0] - means[1])) > 0.05
    assert float(means.mean()) == pytest.approx(1.2, abs=1e-6)
    weights = log_target.softmax(1).flatten() / 2
    assert found.fit is not None
    assert found.fit.effective == pytest.approx(1 / float(weights.square().sum()))


@pytest.mark.slow
@pytest.mark.parametrize("log_proposal", [None, random_prior(seed=9)], ids=["prior", "other"])
def test_samples_of_any_proposal_give_it_and_its_interval_covers(
    log_proposal: Tensor | None,
) -> None:
    """Of 200 fits 95% cover; fewer than 180 have a probability of 0.3%."""
    exact = target(b=0.5, g=1.0).fitted(listed(PRIOR, scores(b=BINARY, g=GRADED)))
    covered = np.zeros(2)
    for seed in range(200):
        samples = drawn(PRIOR, scores(b=BINARY, g=GRADED), 600, seed, log_proposal)
        found = target(b=0.5, g=1.0).fitted(samples)
        for place, name in enumerate("bg"):
            interval = multiplier(found, name)
            covered[place] += interval.low < multiplier(exact, name).value < interval.high
    assert (covered >= 180).all()
    assert (covered < 200).any()


@pytest.mark.parametrize(
    ("features", "means", "said"),
    [
        ({"b": BINARY}, {"b": 1.0}, r"target\.features\.b\.mean=1: .* is a constraint"),
        ({"b": BINARY}, {"b": 0.0}, r"target\.features\.b\.mean=0: .* is a constraint"),
        ({"b": BINARY}, {"b": 1.5}, r"b <= 1 in all 60 samples, and they need 1\.5; choose"),
        ({"b": BINARY}, {"b": -0.5}, r"b >= 0 in all 60 samples, and they need -0\.5; choose"),
        ({"g": GRADED}, {"g": 2.0}, r"g <= 2 .* need 2, which only a constraint has"),
        (
            {"b": BINARY, "o": (1 - BINARY) * OTHER},
            {"b": 0.6, "o": 0.6},
            r"means b=0\.6, o=0\.6: b \+ o <= 1 in all .* need 1\.2",
        ),
        (
            {"b": BINARY, "o": torch.maximum(BINARY, OTHER)},
            {"b": 0.6, "o": 0.5},
            r"b - o <= 0 in all .* need 0\.1",
        ),
        ({"b": BINARY * 0 + 0.3}, {"b": 0.5}, r"features\.b: is 0\.3 in all 60 .* below 0\.049"),
        (
            {"b": BINARY, "o": 3 - 2 * BINARY},
            {"b": 0.6, "o": 1.8},
            r"b \+ 0\.5·o = 1\.5 in all .* leave it out",
        ),
        ({"b": BINARY, "o": 1 - BINARY}, {"b": 0.6, "o": 0.7}, r"no distribution .* b \+ o <= 1"),
    ],
)
def test_means_that_cannot_be_had_are_refused_with_the_reason(
    features: dict[str, Tensor], means: dict[str, float], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        target(**means).fitted(listed(PRIOR, scores(**features)))


def test_near_the_edge_it_is_still_solved() -> None:
    samples = listed(PRIOR, scores(g=GRADED))
    found = target(g=1.999).fitted(samples)
    assert float(probability(found, samples) @ GRADED) == pytest.approx(1.999, abs=1e-6)


def test_a_constraint_that_no_sample_meets_is_refused() -> None:
    with pytest.raises(UserError, match=r"target\.constraint: none of 60 samples .*threshold=0\.5"):
        target(constraint=True, b=0.5).fitted(listed(PRIOR, scores(b=BINARY) | {"reward": -OTHER}))


def test_of_a_hybrid_the_samples_that_count_are_those_that_meet_the_constraint() -> None:
    always = (GRADED >= 0.5).double()
    met = int(always.sum())
    assert met < 60
    with pytest.raises(UserError, match=rf"b: is 1 in all {met} samples"):
        target(constraint=True, b=0.5).fitted(listed(PRIOR, scores(b=always)))


def test_it_is_fitted_again_while_the_priors_samples_carry_too_little() -> None:
    """The binary feature's mean of 0.9 leaves about a fifth of 600 samples effective."""
    found = target(b=0.9).fitted(drawn(PRIOR, scores(b=BINARY), 600, 0))
    assert found.fit is not None
    assert 20 < found.fit.effective < 300
    assert [found.samples_to_fit(u, 30) for u in (0, 5, 10, 20, 21, 30)] == [4096] + [0] + [
        4096
    ] * 2 + [0] * 2
    assert {
        Moments(REWARD, found.features, ess_floor=10, fit=found.fit).samples_to_fit(10, 30)
    } == {0}
    later = found.fitted(drawn(PRIOR, scores(b=BINARY), 600, 1, random_prior(seed=9)))
    assert later.fit is not None
    assert later.fit.prior_effective == found.fit.effective != later.fit.effective


def test_the_state_is_plain_and_the_report_has_intervals() -> None:
    found = target(b=0.5, g=1.0).fitted(drawn(PRIOR, scores(b=BINARY, g=GRADED), 600, 0))
    restored = target(b=0.5, g=1.0).with_state(json.loads(json.dumps(found.state())))
    assert restored == found
    assert target(b=0.5).state() == {} == dict(target(b=0.5).report())
    assert set(found.report()) == {"target/lambda/b", "target/lambda/g", "target/fit_ess"}
    for state in ({"multipliers": {}}, {**found.state(), "effective": "many"}):
        with pytest.raises((ValueError, LookupError, TypeError)):
            target(b=0.5, g=1.0).with_state(state)


def config(**keys: Any) -> TrainConfig:
    feature = {"reward": {"name": "contains", "text": "b"}, "mean": 0.7}
    section = {"name": "moments", "features": {"b": feature}, "fit_samples": 4000, "refit_every": 1}
    return train_config(
        target=section | keys,
        updates=3,
        reward={"name": "letters"},
        evaluation={"samples": 32, "prior_samples": 32, "every": 1, "ess_floor": 2},
    )


def test_an_evaluation_gives_lambda_beside_its_exact_value() -> None:
    """λ = logit 0.7 − logit m; the seed's interval of 95% covers it."""
    evaluator = assemble_evaluator(config(), adapted=True)
    fit_to_prior(evaluator, seed=0)
    evaluation = evaluator.evaluate(0)
    assert evaluator.enumeration is not None
    listing = evaluator.enumeration.scored(0)
    rate = float(listing.log_prior_sequence.exp() @ listing.scores["feature/b"])
    found, exact = evaluation.metrics["target/lambda/b"], evaluation.exact
    assert exact["target/lambda/b"] == pytest.approx(
        math.log(0.7 / 0.3) - math.log(rate / (1 - rate)), abs=1e-6
    )
    assert isinstance(found, Measurement)
    assert found.low < float(exact["target/lambda/b"] or 0) < found.high
    assert "target/fit_ess" in evaluation.metrics.keys() - exact.keys()
    bernoulli = kl(torch.tensor([0.7, 0.3]), torch.tensor([rate, 1 - rate]))
    assert exact["eval/kl_target_forward_exact_fit"] == pytest.approx(bernoulli, abs=1e-5)
    assert exact["eval/kl_target_forward"] != exact["eval/kl_target_forward_exact_fit"]


def test_a_run_keeps_a_good_fit_and_its_records_hold_lambda() -> None:
    loop = assembled(config())
    loop.fit()
    first = loop.target
    for _ in range(3):
        record = loop.step()
    assert loop.target is first  # of 4,000 samples more than 1,000 are effective
    assert record["target/lambda/b"] == multiplier(first, "b").value


def test_a_finite_potential_is_provided_without_a_constraint_alone() -> None:
    for constraint, lines in ((False, 0), (True, 1)):
        raw = config(constraint=constraint).model_dump()
        found = list(unmet_needs(TrainConfig, raw))
        assert len(found) == lines
        assert all(
            line.startswith("objective=kl with target=moments: reverse KL") for line in found
        )
    notebook = {"b": (lambda texts: [float("b" in text) for text in texts], 0.5)}
    prior = klvi.load_prior("enumerable", letters=4, length=4, device="cpu", kernels="none")
    with pytest.raises(UserError, match="objective with this target: reverse KL"):
        klvi.train(prior, Moments(REWARD, notebook, constraint=True), klvi.objectives.KL())


def test_built_from_the_configuration() -> None:
    section = config().target
    assert isinstance(section, MomentsTarget)
    built = build_target(section, REWARD, 0.2)
    assert isinstance(built, Moments)
    assert list(built.scorers) == ["reward", "feature/b"]
    assert built.features["b"].mean == 0.7
    assert built.features["b"].reward(["a b"], []) == [1.0]


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({}, "give at least one"),
        ({"a/b": (REWARD, 0.5)}, "target.features.a/b: names a score"),
        ({"a": REWARD}, r"target\.features\.a: is LetterReward; give \(reward, mean\)"),
        ({"a": (3, 0.5)}, r"target\.features\.a\.reward: is int"),
        ({"a": (REWARD, "half")}, "target.features.a.mean='half': must be a number"),
    ],
)
def test_features_that_are_none_are_refused(features: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Moments(REWARD, features)


def test_what_no_fit_reaches_is_refused_while_nothing_is_written(tmp_path: Path) -> None:
    feature = "target.features.a={reward: {name: contains, text: a}, mean: 1.5}"
    words = ("train", "model=enumerable", "reward=letters", "target=moments", feature, "threads=1")
    result = command(tmp_path, *words, "model.letters=2", "model.length=2")
    assert result.returncode == 2, result.stderr
    assert "target.features: no distribution has the means a=1.5" in result.stderr
    assert not list(tmp_path.rglob("*.*"))
