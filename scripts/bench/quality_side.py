"""Exact KL(π‖p) along PPO's updates: `python -m scripts.bench.quality_side SIDE SEED UPDATES`.

The prior is enumerable (5 letters, at most 5 tokens), β is 0.1, λ = γ = 1, 256 samples an update,
4 epochs, learning rate 3e-3 decaying to 0. Both sides start from the same prior and adapter; TRL's
value model is a copy of the prior with a new head. Its pad token is an id beyond the vocabulary.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GPT2ForSequenceClassification, PreTrainedModel

from klvi.config.compose import composer, to_config
from klvi.evaluation.enumeration import ExactEvaluator
from klvi.policy.policy import Policy
from klvi.policy.schema import EnumerableModelConfig
from klvi.rewards.build import build_reward
from klvi.runs.assembly import assemble_evaluator, assemble_loop
from klvi.runs.schema import TrainConfig
from klvi.targets.build import build_target
from scripts.bench.klvi_side import train

BATCH = 256
POINTS = 6


def quality_config(seed: int, updates: int) -> TrainConfig:
    """The configuration of both sides."""
    overrides = [
        "model=enumerable",
        "objective=kl",
        "beta=0.1",
        "reward=python",
        f"reward.function={Path(__file__).with_name('letter_reward.py')}:share_of_a",
        f"batch_size={BATCH}",
        f"updates={updates}",
        f"seed={seed}",
        "objective.epochs=4",
        "objective.gae_lambda=1.0",
        "optim.lr=3e-3",
        "device=cpu",
        "threads=1",
    ]
    with composer("train") as hydra:
        config = to_config("train", hydra.compose(overrides))
    assert isinstance(config, TrainConfig)
    return config


def exact_kl(policy: Policy, config: TrainConfig) -> Callable[[], float]:
    """A function for KL(π‖p), nats per sequence, of the policy as it is when called."""
    assert isinstance(config.model, EnumerableModelConfig)
    target = build_target(config.target, build_reward(config.reward, "cpu"), config.beta)
    exact = ExactEvaluator(policy, target, config.model.letters, config.model.length)

    def divergence() -> float:
        value = exact.evaluate(0)["eval/kl_target_reverse"]
        assert isinstance(value, float)
        return value

    return divergence


class Curve:
    """KL(π‖p) at a few updates."""

    def __init__(self, policy: Policy, config: TrainConfig) -> None:
        self.divergence = exact_kl(policy, config)
        self.every = max(config.updates // POINTS, 1)
        self.update = 0
        self.values = {0: self.divergence()}

    def after_update(self, *_: object) -> None:
        """Count an update; measure where one is due."""
        self.update += 1
        if self.update % self.every == 0:
            self.values[self.update] = self.divergence()


def train_klvi(config: TrainConfig) -> dict[int, float]:
    """klvi's PPO."""
    loop = assemble_loop(config, assemble_evaluator(config, adapted=True))
    curve = Curve(loop.policy, config)
    loop.on_update.append(curve.after_update)
    train(loop)
    return curve.values


def train_trl(config: TrainConfig) -> dict[int, float]:
    """TRL's PPO."""
    from scripts.bench.trl_side import build_trainer

    policy = assemble_evaluator(config, adapted=False).policy
    values = _value_model(policy.model)
    policy = Policy(policy.prior, config.lora, config.seed)
    curve = Curve(policy, config)
    tokenizer = copy.deepcopy(policy.prior.tokenizer)
    assert policy.adapted is not None
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            config, policy.adapted, values, tokenizer, Path(folder), natural=True
        )
        trainer.log = curve.after_update
        trainer.train()
    return curve.values


def _value_model(prior: PreTrainedModel) -> GPT2ForSequenceClassification:
    model_config = copy.deepcopy(prior.config)
    model_config.num_labels = 1
    torch.manual_seed(0)
    values = GPT2ForSequenceClassification(model_config)
    values.transformer.load_state_dict(copy.deepcopy(prior.transformer.state_dict()))
    return values


def main() -> None:
    """Train one side; print its curve."""
    warnings.simplefilter("ignore")
    side, seed, updates = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sides = {"klvi": train_klvi, "trl": train_trl}
    print(json.dumps(sides[side](quality_config(seed, updates))))


main()
