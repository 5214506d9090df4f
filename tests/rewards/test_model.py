"""A reward model, or an ensemble, read back from its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from klvi.contexts import contexts_of
from klvi.errors import UserError
from klvi.policy.prior import Prior, load_prior
from klvi.policy.schema import EnumerableModelConfig
from klvi.rewards.build import build_reward
from klvi.rewards.model import RewardModel
from klvi.rewards.schema import ModelReward
from klvi.rewards.scoring import named_scores
from klvi.training.reward_model import reading, untrained

TEXTS = ["a b", "", " b b a c", "c"]
CONTEXTS = contexts_of(["", "a", "c c", ""])


@pytest.fixture(scope="module")
def prior() -> Prior:
    return load_prior(EnumerableModelConfig(name="enumerable", letters=3, length=4))


def save(prior: Prior, folder: Path, seed: int) -> None:
    reader = reading(untrained(prior, seed), prior, 8)
    reader.model.save_pretrained(folder)
    reader.tokenizer.save_pretrained(folder)


def load(folder: Path) -> RewardModel:
    reward = build_reward(ModelReward(name="model", path=str(folder)), "cpu")
    assert isinstance(reward, RewardModel)
    return reward


def test_a_single_model_scores_prompt_and_completion_as_one_text(
    tmp_path: Path, prior: Prior
) -> None:
    save(prior, tmp_path / "one", 0)
    plain = untrained(prior, 0).eval().requires_grad_(False)
    scores = named_scores(load(tmp_path / "one"), TEXTS, CONTEXTS, update=0)
    assert list(scores) == ["reward"]
    whole = ["a b", "a", "c c b b a c", "c"]
    for score, text in zip(scores["reward"].tolist(), whole, strict=True):
        ids = torch.tensor([prior.tokenizer(text)["input_ids"]])
        plain.config.pad_token_id = None
        assert score == pytest.approx(plain(ids).logits.item(), abs=1e-5)


def test_of_an_ensemble_the_mean_is_the_reward_and_each_stands_beside_it(
    tmp_path: Path, prior: Prior
) -> None:
    for seed in (0, 1, 10):
        save(prior, tmp_path / str(seed), seed)
    (tmp_path / "summary.json").write_text("{}")
    scores = named_scores(load(tmp_path), TEXTS, CONTEXTS, update=0)
    assert list(scores) == ["reward", "0", "1", "10"]
    alone = named_scores(load(tmp_path / "1"), TEXTS, CONTEXTS, update=0)["reward"]
    assert torch.equal(scores["1"], alone)
    mean = (scores["0"] + scores["1"] + scores["10"]) / 3
    assert torch.allclose(scores["reward"], mean)


def test_what_is_no_reward_model_is_refused_in_a_line(tmp_path: Path, prior: Prior) -> None:
    with pytest.raises(UserError) as refused:
        load(tmp_path)
    assert str(refused.value) == (
        f"reward.path={tmp_path}: is no reward model: it has neither config.json nor folders 0, 1, "
        "…; give a folder that klvi reward, or another trainer of classifiers, has written"
    )
    assert isinstance(prior.plain, GPT2LMHeadModel)
    prior.plain.save_pretrained(tmp_path / "0")
    prior.tokenizer.save_pretrained(tmp_path / "0")
    with pytest.raises(
        UserError, match="0 is not a trained sequence classifier: it has no weights"
    ):
        load(tmp_path)


def test_labels_are_no_score(tmp_path: Path, prior: Prior) -> None:
    model = untrained(prior, 0)
    config = type(model.config).from_dict({**model.config.to_dict(), "num_labels": 2})
    type(model)(config).save_pretrained(tmp_path)
    prior.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has 2 labels, not the single score of a reward model"):
        load(tmp_path)
