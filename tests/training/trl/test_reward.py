"""Reward models in TRL's trainer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import letter_reward

from klvi.policy.adapters import adapter_config
from klvi.policy.prior import Prior, load_prior
from klvi.policy.schema import EnumerableModelConfig, LoraSection
from klvi.rewards.classifier import Classifier
from klvi.training.preferences import Pair
from klvi.training.reward_model import margins, reading, tokens, untrained
from klvi.training.trl.reward import RewardSettings, train_reward_model


@pytest.fixture(scope="module")
def prior() -> Prior:
    return load_prior(EnumerableModelConfig(name="enumerable", letters=4, length=4))


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(4, (400, 2, 4), generator=generator).tolist()
    texts = [[" ".join("abcd"[i] for i in row) for row in pair] for pair in rows]
    sorted_texts = [sorted(pair, key=lambda text: -float(letter_reward([text]))) for pair in texts]
    return [
        Pair("a", f" {better}", f" {worse}") for better, worse in sorted_texts if better != worse
    ]


def trained(prior: Prior, pairs: list[Pair], seed: int, *, full: bool = False) -> Classifier:
    lora = None if full else adapter_config(prior.plain, LoraSection(r=4))[0]
    settings = RewardSettings(epochs=3, batch_size=16, lr=1e-3 if full else 4e-3, lora=lora)
    model = untrained(prior, seed)
    told: list[Any] = []
    found = train_reward_model(
        model,
        prior.tokenizer,
        *tokens(prior, pairs),
        settings,
        seed,
        lambda step, loss: told.append((step, loss)),
    )
    assert [step for step, _ in told] == list(range(1, 3 * -(-len(pairs) // 16) + 1))
    assert told[-1][1] < told[0][1]
    return reading(found, prior, 16)


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
def test_a_trained_model_orders_pairs_that_it_has_not_seen(
    prior: Prior, pairs: list[Pair], full: bool
) -> None:
    before = [weight.clone() for weight in prior.plain.parameters()]
    untaught = margins(reading(untrained(prior, 0), prior, 16), pairs[300:])
    reward = trained(prior, pairs[:300], 0, full=full)
    assert float((margins(reward, pairs[300:]) > 0).double().mean()) > 0.85
    assert float((untaught > 0).double().mean()) < 0.7
    assert type(reward.model).__name__ == "GPT2ForSequenceClassification"
    assert not any("lora" in name for name, _ in reward.model.named_parameters())
    for weight, kept in zip(prior.plain.parameters(), before, strict=True):
        assert torch.equal(weight, kept)


@pytest.mark.slow
def test_a_seed_tells_a_member(prior: Prior, pairs: list[Pair]) -> None:
    one, again, other = (margins(trained(prior, pairs[:48], n), pairs[:8]) for n in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)


def test_an_untrained_classifier_has_the_priors_weights(prior: Prior) -> None:
    model = untrained(prior, 3)
    for name, weight in prior.plain.base_model.state_dict().items():
        assert torch.equal(model.base_model.state_dict()[name], weight)
    assert torch.equal(model.score.weight, untrained(prior, 3).score.weight)
    assert not torch.equal(model.score.weight, untrained(prior, 4).score.weight)
