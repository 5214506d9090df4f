"""klvi's PPO against TRL's own `PPOTrainer.train()`: the same rollouts, rewards and settings.

The value model is a separate transformer here, as in TRL. Completions all have the maximal length:
for shorter ones TRL places the score one position after the last token, klvi on it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from support import LENGTH, LETTERS, LetterReward, letter_reward, sample, train_config
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import GPT2Config, GPT2ForSequenceClassification

from klvi.contexts import contexts_of, unprompted
from klvi.engine.micro_batch import MicroBatch
from klvi.objectives.base import Prediction
from klvi.objectives.build import build_objective
from klvi.objectives.ppo import RL
from klvi.policy.policy import Policy
from klvi.policy.prior import load_prior
from klvi.prompts.stream import PromptStream
from klvi.rewards.scoring import scored
from klvi.runs.assembly import loop_settings, optimiser_settings
from klvi.runs.schema import TrainConfig
from klvi.samplers.ancestral import Ancestral, token_scores
from klvi.samples import Draw, Samples
from klvi.targets.base import Target
from klvi.targets.build import build_target
from klvi.training.loop import Loop, Record
from klvi.training.optimisation import Optimisation
from klvi.training.schema import OptimSection
from klvi.training.trl.trainer import trainer_for

UPDATES, BATCH = 3, 32
PAD = 99


class SeparateValueLoop(Loop):
    """The loop with fixed rollouts and with values from a transformer of their own."""

    rollouts: list[Samples]

    def values(self, completions: Tensor) -> Tensor:
        tokens = torch.cat([torch.full_like(completions[:, :1], LETTERS), completions], 1)
        head = self.policy.value_head
        hidden = head.transformer(tokens).last_hidden_state
        return head.score(hidden)[:, :-1].squeeze(-1)

    def roll_out(self, target: Target) -> Draw:
        drawn = self.rollouts[self.update]
        scores = token_scores(self.policy, drawn, distributions=True)
        with torch.no_grad():
            scores["values"] = self.values(drawn.tokens)
        samples = replace(drawn, **scores)
        return Draw(scored(samples, target.scorers, update=self.update + 1))

    def predict(self, batch: MicroBatch, *, entropy: bool) -> Prediction:
        prediction = super().predict(batch, entropy=entropy)
        return replace(prediction, values=self.values(batch.tokens))


class SeparateValues(nn.Module):
    """A value transformer that stands where the value head would."""

    def __init__(self, model: GPT2ForSequenceClassification) -> None:
        super().__init__()
        self.transformer, self.score = model.transformer, model.score

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.sum(-1) * 0


# What makes `kl` TRL's algorithm, and other settings than the defaults; `rl` is it as it stands.
AS_TRL = {
    "epochs": 3,
    "gae_lambda": 0.9,
    "value_clip": 0.05,
    "soft_values": False,
    "renew_penalty": False,
    "whiten_advantages": True,
    "centre_rewards": False,
}


def parity_config(objective: str) -> TrainConfig:
    return train_config(
        objective={"name": objective, **(AS_TRL if objective == "kl" else {})},
        updates=UPDATES,
        batch_size=BATCH,
        optim={"lr": 3e-3, "max_grad_norm": None},
        beta=0.3,
    )


def fixed_rollouts(config: TrainConfig) -> list[Samples]:
    policy = Policy(load_prior(config.model), config.lora)
    drawn = sample(
        policy,
        unprompted(4000),
        max_new_tokens=LENGTH,
        batch_size=4000,
        seed=1,
    )
    rows = (~drawn.ended).nonzero()[:, 0][: UPDATES * BATCH]
    assert len(rows) == UPDATES * BATCH
    return [drawn.select(part) for part in rows.split(BATCH)]


def value_transformer() -> GPT2ForSequenceClassification:
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=LETTERS + 1, n_embd=32, n_layer=1, n_head=2, n_positions=16, num_labels=1
    )
    config.pad_token_id = PAD
    return GPT2ForSequenceClassification(config).eval()


def train_with_klvi(
    config: TrainConfig, rollouts: list[Samples], folder: Path
) -> tuple[list[Tensor], list[Record]]:
    policy = Policy(load_prior(config.model), config.lora, seed=0)
    policy.value_head = SeparateValues(value_transformer())
    loop = SeparateValueLoop(
        settings=loop_settings(config),
        policy=policy,
        objective=build_objective(config.objective),
        target=build_target(config.target, LetterReward(), config.beta),
        proposal=Ancestral(LENGTH),
        ancestral=Ancestral(LENGTH),
        contexts=PromptStream(contexts_of([""])),
        optimisation=Optimisation(policy, optimiser_settings(config.optim), config.updates),
    )
    loop.rollouts = rollouts
    records: list[Record] = []
    loop.on_update.append(records.append)
    trainer = trainer_for(loop.objective)
    assert trainer.name == "trl.experimental.ppo"
    trainer.run(loop, folder)
    return [p.detach() for p in policy.parameters()], records


def train_with_trl(
    config: TrainConfig, rollouts: list[Samples], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Tensor], list[Record]]:
    from trl.experimental.ppo import PPOTrainer, ppo_trainer

    from scripts.bench.trl_side import trl_arguments

    policy = Policy(load_prior(config.model), config.lora, seed=0)
    values = value_transformer()
    batches = iter(rollouts)
    scores: list[Tensor] = []

    def recorded_generation(model: nn.Module, queries: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        samples = next(batches)
        scores.append(letter_reward(samples.texts))
        both = torch.cat([queries, samples.tokens], 1)
        return both, model(input_ids=both).logits[:, :-1]

    original = ppo_trainer.get_reward

    def recorded_reward(model: nn.Module, *arguments: object) -> tuple[Tensor, Tensor, Tensor]:
        if model is values:
            return original(model, *arguments)
        return scores[-1], scores[-1], scores[-1]

    monkeypatch.setattr(ppo_trainer, "batch_generation", recorded_generation)
    monkeypatch.setattr(ppo_trainer, "get_reward", recorded_reward)
    arguments = replace(
        trl_arguments(config, folder), stop_token=None, local_rollout_forward_batch_size=BATCH
    )
    tokenizer = copy.deepcopy(policy.prior.tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy.adapted,
        ref_model=None,
        reward_model=nn.Identity(),
        train_dataset=Dataset.from_dict({"input_ids": [[LETTERS]] * BATCH}),
        value_model=values,
    )
    records: list[Record] = []
    monkeypatch.setattr(trainer, "log", lambda record: records.append(dict(record)))
    trainer.train()
    parameters = policy.adapter_parameters()
    return [p.detach() for p in (*parameters, *SeparateValues(values).parameters())], records


@pytest.mark.trl_ppo
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("objective", ["rl", "kl"])
def test_losses_and_weights_are_those_of_trl(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parity_config(objective)
    rollouts = fixed_rollouts(config)
    ours, our_records = train_with_klvi(config, rollouts, tmp_path / "klvi")
    theirs, their_records = train_with_trl(config, rollouts, tmp_path / "trl", monkeypatch)
    assert len(our_records) == len(their_records) == UPDATES
    for mine, other in zip(our_records, their_records, strict=True):
        for name in (
            "objective/kl",
            "objective/entropy",
            "objective/scores",
            "objective/non_score_reward",
            "objective/rlhf_reward",
            "loss/policy_avg",
            "loss/value_avg",
            "policy/approxkl_avg",
            "policy/clipfrac_avg",
            "val/clipfrac_avg",
            "val/ratio",
            "lr",
            "episode",
        ):
            assert_close(
                mine[name],
                other[name],
                atol=2e-5,
                rtol=1e-3,
                msg=f"{name}: {mine[name]} {other[name]}",
            )
    policy = Policy(load_prior(config.model), config.lora)
    start = [*policy.adapter_parameters(), *SeparateValues(value_transformer()).parameters()]
    for mine, other, before in zip(ours, theirs, start, strict=True):
        # Adam turns a gradient of rounding errors into a full step, so single elements may differ.
        moved = (other - before).norm()
        assert moved > 1e-3
        assert (mine - other).norm() < 1e-3 * moved


@pytest.mark.trl_ppo
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_defaults_of_rl_are_those_of_trl(tmp_path: Path) -> None:
    from trl.experimental.ppo import PPOConfig

    theirs = PPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True)
    ours = RL().trainer_arguments(beta=0.3)
    assert ours.pop("kl_coef") == 0
    assert ours == {name: getattr(theirs, name) for name in ours}
    assert theirs.num_mini_batches == RL().minibatches
    assert theirs.lr_scheduler_type == OptimSection().schedule
    assert theirs.missing_eos_penalty is None
    assert not theirs.whiten_rewards
