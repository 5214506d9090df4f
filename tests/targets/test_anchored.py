"""The mode-anchored target, against exact sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.optimize import brentq
from support import LetterReward
from target_sums import NO_PROMPT, PROMPTS, distribution, every, exact

from klvi.errors import UserError
from klvi.metrics.measurement import Measurement
from klvi.policy.policy import Policy
from klvi.targets.anchored import Anchored
from klvi.targets.posterior import Posterior

REWARD = LetterReward()
TAU, BETA = 0.4, 0.2
TARGET = Anchored(REWARD, TAU, beta=BETA)


@pytest.mark.parametrize("contexts", [NO_PROMPT, PROMPTS])
def test_p_is_uniform_on_what_is_good_enough(contexts: Any, policy: Policy) -> None:
    """p(G) = m/(m + Σ_{r<τ} π0·e^{r/β}), m = |G|·e^{a}, a = r(z)/β + log π0(z) of each prompt."""
    listed = exact(TARGET, policy, contexts)
    log_prior = listed.log_priors
    reward = every(listed).reward.reshape(log_prior.shape)
    p = distribution(TARGET, policy, contexts)
    for row in range(len(contexts)):
        inside = reward[row] >= TAU
        assert 1 < int(inside.sum()) < len(inside)
        z = int(torch.where(inside, log_prior[row], -torch.inf).argmax())
        m = float(inside.sum() * (reward[row, z] / BETA + log_prior[row, z]).exp())
        rest = float((log_prior[row] + reward[row] / BETA)[~inside].exp().sum())
        assert float(p[row, inside].sum()) == pytest.approx(m / (m + rest))
        torch.testing.assert_close(p[row, inside], p[row, z].expand(int(inside.sum())))
        posterior = distribution(Posterior(REWARD, BETA), policy, contexts)[row]
        ratio = p[row, ~inside] / posterior[~inside]
        torch.testing.assert_close(ratio, ratio[:1].expand(len(ratio)))


@pytest.mark.parametrize("beta", [10.0, 0.1, 0.01])
def test_the_posterior_and_forward_kl_keep_the_priors_odds(beta: float, policy: Policy) -> None:
    """Two sequences of equal reward, at every β: p ∝ π0·e^{r/β}, and π ∝ π0/(Λ − r)."""
    listed = exact(TARGET, policy)
    log_prior = listed.log_priors[0]
    reward = (10 * every(listed).reward).round() / 10
    posterior = log_prior + reward / beta
    top = float(reward.max())
    root = brentq(
        lambda x: float((beta * log_prior.exp() / (x - reward)).sum()) - 1, top + 1e-9, top + beta
    )
    forward = log_prior - (root - reward).log()
    level = (reward == 0.5).nonzero()[:, 0]
    assert float(log_prior[level].max() - log_prior[level].min()) > 1
    for log_p in (posterior, forward):
        odds = log_p[level] - log_p[level[0]]
        torch.testing.assert_close(odds, log_prior[level] - log_prior[level[0]])
    anchored = distribution(Anchored(REWARD, TAU, beta=beta), policy)[0].log()
    torch.testing.assert_close(anchored[level], anchored[level[:1]].expand(len(level)))


def test_a_prompt_without_a_good_sample_is_refused_with_its_base_rate(policy: Policy) -> None:
    samples = every(exact(TARGET, policy, PROMPTS))
    good = samples.reward >= TAU
    keep = (~good | (samples.context == 1)).nonzero()[:, 0]
    count = int((samples.context[keep] == 0).sum())
    with pytest.raises(
        UserError,
        match=rf"^target.threshold=0\.4: none of {count} samples of the prior of prompt 0 .* base "
        r"rate is below .*lower it, or raise target\.fit_samples",
    ):
        TARGET.fitted(samples.select(keep))


def test_a_prompt_without_an_anchor_is_refused(policy: Policy) -> None:
    fitted = TARGET.fitted(every(exact(TARGET, policy)))
    samples = every(exact(TARGET, policy, PROMPTS))
    with pytest.raises(UserError, match=r"prompt 1 .*no anchor: raise target.fit_samples=4096"):
        fitted.log_potential(samples)


def test_it_is_fitted_once_and_restored(policy: Policy) -> None:
    listed = exact(TARGET, policy, PROMPTS)
    fitted: Any = listed.target
    assert [TARGET.samples_to_fit(update, 9) for update in (0, 1, 8)] == [4096, 0, 0]
    restored = TARGET.with_state(fitted.state())
    assert restored == fitted
    assert TARGET.with_state({}) == TARGET
    assert (TARGET.state(), TARGET.report()) == ({}, {})
    samples = every(listed)
    torch.testing.assert_close(restored.log_potential(samples), fitted.log_potential(samples))
    mean = sum(fitted.anchors.values()) / 2
    assert fitted.report() == {"target/anchor": Measurement(mean, mean, mean, 4096)}
