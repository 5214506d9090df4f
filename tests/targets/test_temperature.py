"""A beta that is found from a KL to the prior, against exact sums."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from categorical import drawn, kl, listed, random_prior
from support import LetterReward, train_config
from torch import Tensor

from klvi.errors import UserError
from klvi.metrics.measurement import Measurement
from klvi.rewards.diversity import Diversity
from klvi.runs.assembly import assemble_evaluator
from klvi.samples import Samples
from klvi.targets.ensemble import Ensemble
from klvi.targets.forward_kl import ForwardKL
from klvi.targets.moments import Moments
from klvi.targets.posterior import Posterior
from klvi.targets.preference import Preference
from klvi.training.fitting import fit_to_prior

REWARD = LetterReward()
PRIOR = random_prior()
GRADED = {"reward": torch.linspace(-1, 2, 60).double()}
RARE = {"reward": (torch.arange(60) == 7).double()}
RATE = float(PRIOR[7].exp())


def posterior(kl_prior: float, **keys: Any) -> Posterior:
    return Posterior(REWARD, 0.1, kl_prior=kl_prior, **keys)


def distance(target: Posterior, samples: Samples) -> float:
    return kl(target.log_unnormalised(samples).softmax(0), PRIOR.exp())


@pytest.mark.parametrize("asked", [1e-4, 0.3, 1.0, 2.0])
def test_the_target_has_the_kl_that_was_asked(asked: float) -> None:
    samples = listed(PRIOR, GRADED)
    found = posterior(asked).optimum(samples)
    assert found is not None
    assert distance(found, samples) == pytest.approx(asked, rel=1e-6)
    assert found.found is not None
    assert found.found.beta.value == found.beta


@pytest.mark.parametrize("kind", [Ensemble, Preference])
def test_targets_of_several_scores_have_it_too(kind: type[Ensemble | Preference]) -> None:
    scores = {f"reward/{i}": torch.linspace(-i, 1 + i, 60).double() ** 2 for i in range(3)}
    samples = listed(PRIOR, {"reward": GRADED["reward"], **scores})
    found = kind(REWARD, kl_prior=0.5).optimum(samples)
    assert found is not None
    p = found.log_unnormalised(samples).softmax(0)
    assert kl(p, PRIOR.exp()) == pytest.approx(0.5, rel=1e-6)


def test_contexts_share_beta_and_their_mean_kl_is_asked() -> None:
    priors = torch.cat([PRIOR, PRIOR.flip(0)])
    scores = {"reward": GRADED["reward"].repeat(2)}
    samples = listed(priors, scores, torch.tensor([3] * 60 + [1] * 60))
    found = posterior(0.7).optimum(samples)
    assert found is not None
    p = found.log_unnormalised(samples).reshape(2, 60).softmax(1)
    kls = [kl(*pair) for pair in zip(p, priors.exp().reshape(2, 60), strict=True)]
    assert abs(kls[0] - kls[1]) > 0.01
    assert sum(kls) / 2 == pytest.approx(0.7)


@pytest.mark.slow
@pytest.mark.parametrize("proposal", [None, random_prior(seed=9)], ids=["prior", "other"])
def test_samples_of_any_proposal_give_it_and_the_interval_covers(proposal: Tensor | None) -> None:
    """Of 200 fits 95% cover; fewer than 180 have a probability of 0.3%."""
    exact = posterior(0.7).optimum(listed(PRIOR, GRADED))
    assert exact is not None
    fits = [
        posterior(0.7).fitted(drawn(PRIOR, GRADED, 500, seed, proposal)).found
        for seed in range(200)
    ]
    covered = [fit.beta.low < exact.beta < fit.beta.high for fit in fits if fit is not None]
    assert 180 <= np.sum(covered) < 200


def test_what_no_beta_reaches_is_refused_with_the_limit() -> None:
    """A binary reward of base rate m stays below −log m."""
    samples = drawn(PRIOR, RARE, 40_000, 0)
    share = float(samples.reward.mean())
    assert posterior(0.9 * -math.log(share)).fitted(samples).found is not None
    limit = f"{-math.log(share):.4g}"
    with pytest.raises(UserError, match=rf"target\.kl_prior=8: must be below {limit} nats"):
        posterior(8.0).fitted(samples)
    with pytest.raises(UserError, match="all 60 samples of the prior have the same reward"):
        posterior(1.0).fitted(listed(PRIOR, {"reward": torch.ones(60).double()}))


@pytest.mark.parametrize(
    "target",
    [
        Posterior(Diversity(), 0.1, kl_prior=1.0),
        Ensemble(Diversity(), 0.1, kl_prior=1.0),
        ForwardKL(Diversity(), 0.1, 2.0),
        Moments(REWARD, {"other": (Diversity(), -0.3)}),
    ],
)
def test_nothing_is_fitted_to_a_reward_that_the_policy_moves(target: Any) -> None:
    samples = listed(PRIOR, GRADED)
    with pytest.raises(UserError, match=rf"target={target.name}: cannot be fitted .*diversity"):
        target.fitted(samples)


def test_what_too_few_samples_carry_is_refused_with_their_number() -> None:
    samples = drawn(PRIOR, RARE, 500, 0)
    assert 1 <= float(samples.reward.sum()) < 30
    asked = 0.9 * -math.log(float(samples.reward.mean()))
    with pytest.raises(
        UserError, match=r"of 500 carry it, .* give target\.fit_samples="
    ) as refused:
        posterior(asked).fitted(samples)
    assert int(str(refused.value).rpartition("=")[2]) >= 30 * math.exp(asked)
    with pytest.raises(UserError, match=r"target\.kl_prior=30: .* give a nearer KL"):
        posterior(30.0).fitted(samples)


def test_the_state_holds_beta() -> None:
    found = posterior(0.7).fitted(drawn(PRIOR, GRADED, 500, 0))
    restored = posterior(0.7).with_state(json.loads(json.dumps(found.state())))
    assert restored == found
    assert set(found.report()) == {"target/beta", "target/kl_prior_asked", "target/beta_ess"}
    with pytest.raises(ValueError, match="keeps no state without kl_prior"):
        Posterior(REWARD, 0.1).with_state(found.state())
    assert found.samples_to_fit(0) == 4096
    assert found.samples_to_fit(1) == Posterior(REWARD, 0.1).samples_to_fit(0) == 0


def test_an_evaluation_gives_beta_beside_its_exact_value() -> None:
    config = train_config(
        target={"name": "posterior", "kl_prior": 0.4, "fit_samples": 4000},
        reward={"name": "letters"},
        evaluation={"samples": 32, "prior_samples": 32, "every": 1, "ess_floor": 2},
    )
    evaluator = assemble_evaluator(config, adapted=True)
    fit_to_prior(evaluator, seed=0)
    evaluation = evaluator.evaluate(0)
    found, exact = evaluation.metrics["target/beta"], evaluation.exact
    assert isinstance(found, Measurement)
    assert found.low < float(exact["target/beta"] or 0) < found.high
    assert exact["eval/kl_target_forward_exact_fit"] == pytest.approx(0.4, abs=1e-6)
    assert exact["target/kl_prior"] == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("keys", [{"kl_prior": -1.0}, {"kl_prior": 0.0}, {"fit_samples": 1}])
def test_keys_are_held_to_their_bounds(keys: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(keys))):
        Posterior(REWARD, 0.1, **keys)
