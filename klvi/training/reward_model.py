"""Reward models on a prior's weights: the classifier to train, and how it reads pairs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from klvi.contexts import contexts_of
from klvi.errors import UserError, described
from klvi.policy.loading import quiet_transformers
from klvi.policy.prior import Prior
from klvi.randomness import torch_seeded
from klvi.rewards.classifier import Classifier
from klvi.rewards.head import Head
from klvi.training.preferences import Pair


def untrained(prior: Prior, seed: int, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """A sequence classifier of one logit: the prior's weights, and a head that `seed` tells.

    Raises UserError where transformers has none of this architecture.
    """
    config = copy.deepcopy(prior.plain.config)
    config.num_labels = 1
    base: Any = prior.plain.base_model
    try:
        with torch_seeded(seed), quiet_transformers():
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
                config, dtype=prior.plain.dtype, trust_remote_code=trust_remote_code
            )
        model.base_model.load_state_dict(base.state_dict())
    except Exception as error:  # of a model that has no such class, or another base in it
        raise UserError(
            f"model {prior.name}: {type(prior.plain).__name__} cannot be made a sequence "
            f"classifier ({described(error)}); take another model"
        ) from error
    return model.to(prior.device)


def reading(model: PreTrainedModel, prior: Prior, batch_size: int) -> Classifier:
    """The model as a reward, which reads a prompt and its completion as one text."""
    tokenizer = copy.deepcopy(prior.tokenizer)
    tokenizer.truncation_side = "left"
    return Classifier(model, tokenizer, Head(1, 0, "logit"), batch_size, with_prompt=True)


def tokens(prior: Prior, pairs: Sequence[Pair]) -> tuple[list[list[int]], list[list[int]]]:
    """The token ids of what was chosen, and of what was rejected, as a reward model reads them.

    Raises UserError where the tokenizer cannot read them.
    """
    reader, contexts = reading(prior.plain, prior, 1), contexts_of([pair.prompt for pair in pairs])
    try:
        chosen = reader.encode([pair.chosen for pair in pairs], contexts)
        rejected = reader.encode([pair.rejected for pair in pairs], contexts)
    except Exception as error:  # of a tokenizer that knows its own words alone
        raise UserError(
            f"data: the model's tokenizer cannot read the pairs ({described(error)}); give pairs "
            "of this model's completions, or take another model"
        ) from error
    return [row["input_ids"] for row in chosen], [row["input_ids"] for row in rejected]


def margins(reward: Classifier, pairs: Sequence[Pair]) -> Tensor:
    """`(N,)` r(chosen) − r(rejected), float64, nats: the log odds of the label."""
    contexts = contexts_of([pair.prompt for pair in pairs])
    chosen = reward([pair.chosen for pair in pairs], contexts)
    return chosen - reward([pair.rejected for pair in pairs], contexts)
