"""Products of targets, against exact sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import LetterReward, letter_reward
from target_sums import NO_PROMPT, PROMPTS, Members, distribution, every, exact, log_z

from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.rewards.schema import LettersReward
from klvi.targets.anchored import Anchored
from klvi.targets.build import build_target
from klvi.targets.constraint import Constraint
from klvi.targets.continuation import Continuation
from klvi.targets.ensemble import Ensemble
from klvi.targets.model import LanguageModel
from klvi.targets.posterior import Posterior
from klvi.targets.power import Power
from klvi.targets.preference import Preference
from klvi.targets.product import Product, term
from klvi.targets.schema import ConstraintTarget, PosteriorTarget, ProductTarget, ProductTerm

REWARD = LetterReward()


class Short:
    name = "short"

    def __call__(self, texts: list[str], contexts: Any) -> torch.Tensor:
        return torch.tensor([-float(len(text)) for text in texts])


@pytest.mark.parametrize("contexts", [NO_PROMPT, PROMPTS])
def test_potentials_are_added(contexts: Any, policy: Policy) -> None:
    """log Z_12 = log Z_1 + log E_p1[exp(φ_2)], of each prompt."""
    first, second = Posterior(REWARD, 0.2), Preference(Members(), 0.5)
    p, evidence = (f(first, policy, contexts) for f in (distribution, log_z))
    potential = second.log_potential(every(exact(second, policy, contexts))).reshape(p.shape)
    product = Product({"one": first, "two": second})
    expected = evidence + (p * potential.exp()).sum(1).log()
    torch.testing.assert_close(log_z(product, policy, contexts), expected)
    torch.testing.assert_close(
        distribution(product, policy, contexts), (p.log() + potential).softmax(1)
    )


def test_posteriors_add_their_rewards(policy: Policy) -> None:
    product = Product({"late": Posterior(REWARD, 0.2), "short": Posterior(Short(), 3.0)})
    whole = Posterior(
        lambda texts: (letter_reward(texts) / 0.2 + Short()(texts, []) / 3).tolist(),  # type: ignore[arg-type]
        1.0,
    )
    torch.testing.assert_close(distribution(product, policy), distribution(whole, policy))


def test_powers_add_their_exponents(policy: Policy) -> None:
    """α1 + α2 − 1."""
    product = Product({"one": Power(REWARD, 2.0), "two": Power(REWARD, 1.5)})
    expected = distribution(Power(REWARD, 2.5), policy)
    torch.testing.assert_close(distribution(product, policy), expected)


def test_a_constraint_keeps_the_others_within(policy: Policy) -> None:
    product = Product({"late": Posterior(REWARD, 0.2), "short": Constraint(Short(), -5.0)})
    p = distribution(Posterior(REWARD, 0.2), policy)[0]
    within = every(exact(Constraint(Short(), -5.0), policy)).reward >= -5
    conditioned = torch.where(within, p, 0.0) / p[within].sum()
    torch.testing.assert_close(distribution(product, policy)[0], conditioned)


def test_of_a_model_the_others_have_it_as_prior(policy: Policy) -> None:
    """The teacher here is the prior itself, so that nothing else is left of it."""
    model = LanguageModel(REWARD, policy.prior, policy.prior)
    product = Product({"teacher": model, "late": Posterior(REWARD, 0.2)})
    expected = distribution(Posterior(REWARD, 0.2), policy)
    torch.testing.assert_close(distribution(product, policy), expected, atol=1e-6, rtol=0)
    assert product.log_z is None


def test_with_others_an_anchored_target_is_their_evidence_where_it_holds(policy: Policy) -> None:
    product = Product({"good": Anchored(REWARD, 0.4), "short": Posterior(Short(), 3.0)})
    listed = exact(product, policy)
    inside = every(listed).reward >= 0.4
    log_p = listed.log_targets(0)[0][inside]
    evidence = every(listed).scores["short/reward"][inside] / 3
    torch.testing.assert_close(log_p - log_p[0], evidence - evidence[0])


def test_terms_have_scores_of_their_own(policy: Policy) -> None:
    product = Product(
        {
            "own": Posterior(REWARD, 0.2),
            "short": Posterior(Short(), 3.0),
            "many": Ensemble(Members()),
        }
    )
    assert list(product.scorers) == ["reward", "short/reward", "many/reward"]
    scores = every(exact(product, policy)).scores
    assert {name for name in scores if name.startswith("many/")} == {
        "many/reward",
        *(f"many/reward/{name}" for name in ("late", "short", "odd")),
    }
    other = Product({"short": Posterior(Short(), 3.0)}, reward=REWARD)
    assert list(other.scorers) == ["reward", "short/reward"]


def test_terms_are_fitted_and_restored(policy: Policy) -> None:
    product = Product(
        {
            "good": Anchored(REWARD, 0.4, fit_samples=100),
            "before": Continuation(REWARD, policy.prior, None, length=1, fit_samples=200),
            "late": Posterior(REWARD, 0.2),
        }
    )
    assert [product.samples_to_fit(update) for update in (0, 1)] == [200, 0]
    assert product.state() == {}
    listed = exact(product, policy)
    fitted: Any = listed.target
    assert set(fitted.state()) == {"good", "before"}
    restored = product.with_state(fitted.state())
    assert restored == fitted
    assert set(fitted.report()) == {
        "target/good/anchor",
        "target/before/log_z_upper",
        "target/before/log_z_lower",
    }
    samples = every(listed)
    torch.testing.assert_close(restored.log_potential(samples), fitted.log_potential(samples))
    with pytest.raises(ValueError, match="has no term other"):
        product.with_state({"other": {}})


def test_an_error_of_a_term_names_its_key(policy: Policy) -> None:
    product = Product({"good": Anchored(REWARD, 50.0), "far": Posterior(REWARD, 0.2, kl_prior=20)})
    with pytest.raises(UserError, match=r"target\.terms\.good\.target\.threshold=50: none of"):
        exact(product, policy)


def test_tempering_tempers_the_whole(policy: Policy) -> None:
    product = Product({"one": Posterior(REWARD, 0.2), "two": Power(REWARD, 2.0)})
    samples = every(exact(product, policy))
    half = product.tempered(0.5).log_potential(samples)
    torch.testing.assert_close(half, product.log_potential(samples) / 2)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({}, r"^target\.terms: has no term; add one"),
        ({"reward": Posterior(REWARD, 1.0)}, r"^target\.terms\.reward: a label names scores"),
        ({"gold": Posterior(REWARD, 1.0)}, r"^target\.terms\.gold: a label names scores"),
        ({"a/b": Posterior(REWARD, 1.0)}, r"^target\.terms\.a/b: a label names scores"),
        (
            {"one": Anchored(REWARD), "two": Anchored(REWARD)},
            r"^target\.terms\.two: a second target=anchored .*keep one",
        ),
        (
            {"all": Product({"one": Power(REWARD)})},
            r"^target\.terms\.all: target=product is a product itself; list its terms",
        ),
    ],
)
def test_what_cannot_be_multiplied_is_refused(terms: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Product(terms)


def test_a_term_that_reads_no_reward_has_none_of_its_own() -> None:
    class Bare:
        name = "bare"

    with pytest.raises(UserError, match=r"^target=bare in a product: takes no beta of its own"):
        term(Bare(), reward=None, beta=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["empirical", "moments", "forward_kl"])
def test_what_is_no_factor_is_refused_by_its_name(name: str) -> None:
    class Named(Posterior):
        pass

    Named.name = name
    with pytest.raises(UserError, match=rf"^target\.terms\.one: target={name} .*take it alone"):
        Product({"one": Named(REWARD, 1.0)})


def test_it_is_built_of_terms_with_rewards_and_betas_of_their_own() -> None:
    section = ProductTarget(
        name="product",
        terms={
            "mine": ProductTerm(target=PosteriorTarget(name="posterior")),
            "late": ProductTerm(
                target=ConstraintTarget(name="constraint", threshold=0.7),
                reward=LettersReward(name="letters"),
                beta=0.5,
            ),
        },
    )
    target: Any = build_target(section, REWARD, 0.2)
    assert (target.beta, target.reward) == (0.2, REWARD)
    assert target.terms["mine"] == Posterior(REWARD, 0.2)
    late = target.terms["late"]
    assert (late.threshold, late.beta, late.reward.name) == (0.7, 0.5, "letters")
    assert list(target.scorers) == ["reward", "late/reward"]
