"""PPO on TRL: the only module that imports TRL's trainer.

What is kept of TRL is the trainer around the algorithm: accelerate, the optimizer's preparation,
callbacks, state, and metric names. `train` is klvi's loop, in which the value head shares the
policy's trunk, masks come from lengths, and sampling is at temperature 1.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from datasets import Dataset
from trl.experimental.ppo import PPOConfig, PPOTrainer

from klvi.engine.devices import choose_device, use_device
from klvi.objectives.schema import PPOSection
from klvi.policy.loading import quiet_transformers
from klvi.runs.schema import TrainConfig
from klvi.training.loop import Loop, Record


class SharedTrunkPPOTrainer(PPOTrainer):
    """TRL's PPO trainer, whose `train` runs klvi's loop."""

    control: TrainerControl

    def __init__(
        self, loop: Loop, directory: Path, callbacks: list[TrainerCallback] | None = None
    ) -> None:
        self.loop = loop
        policy = loop.policy
        assert policy.value_head is not None, "PPO needs a value head"
        with quiet_transformers():
            args = ppo_config(loop.config, directory)
            use_device(policy.device)  # transformers' arguments make the first GPU the current one
            super().__init__(
                args=args,
                processing_class=policy.prior.tokenizer,
                model=policy.adapted,
                ref_model=None,
                reward_model=nn.Identity(),
                train_dataset=Dataset.from_dict({"input_ids": [[0]] * loop.config.batch_size}),
                value_model=_ValueModel(policy.value_head),
                optimizers=(loop.optimisation.optimizer, loop.optimisation.scheduler),
                callbacks=callbacks,
            )
        self.remove_callback(PrinterCallback)

    def train(self) -> None:
        """Run the loop to its end, with TRL's callbacks around it."""
        optimisation = self.loop.optimisation
        optimisation.optimizer, optimisation.backward = self.optimizer, self.accelerator.backward
        self.state.max_steps = self.loop.config.updates
        self.state.global_step = self.loop.update
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        self.loop.on_update.insert(0, self._after_update)
        self.loop.run()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)

    def _after_update(self, record: Record) -> None:
        self.state.global_step = record["update"]
        self.state.episode = record["episode"]
        self.log({name: value for name, value in record.items() if isinstance(value, float | int)})
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)


class _ValueModel(nn.Module):
    """The value head in the shape that TRL's constructor asks of a value model."""

    base_model_prefix = "trunk"

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.Identity()
        self.score = head


def ppo_config(config: TrainConfig, directory: Path) -> PPOConfig:
    """The run's settings as TRL spells them; `rl` has a KL coefficient of 0."""
    objective = config.objective
    assert isinstance(objective, PPOSection)
    assert config.optim.lr is not None, "chosen once the model is loaded"
    return PPOConfig(
        output_dir=str(directory),
        report_to="none",
        disable_tqdm=True,
        use_cpu=choose_device(config.device) == "cpu",
        seed=config.seed,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=config.batch_size,
        total_episodes=config.updates * config.batch_size,
        num_sample_generations=0,
        num_ppo_epochs=objective.epochs,
        response_length=config.rollout.max_new_tokens,
        stop_token="eos",
        temperature=1.0,
        learning_rate=config.optim.lr,
        kl_coef=config.beta if objective.name == "kl" else 0.0,
        kl_estimator="k1",
        cliprange=objective.clip,
        cliprange_value=objective.value_clip or float("inf"),
        vf_coef=objective.value_coefficient,
        gamma=1.0,
        lam=objective.gae_lambda,
    )
