"""PPO in TRL's trainer.

What is kept of TRL is the trainer around the algorithm: accelerate, the optimizer's preparation,
callbacks, state, and metric names. `train` is klvi's loop, in which the value head shares the
policy's trunk, masks come from lengths, and sampling is at temperature 1.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from datasets import Dataset
from trl.experimental.ppo import PPOConfig, PPOTrainer

from klvi.engine.devices import use_device
from klvi.policy.loading import quiet_transformers
from klvi.training.loop import Loop, LoopSettings, Record


class SharedTrunkPPOTrainer(PPOTrainer):
    """TRL's PPO trainer, whose `train` runs klvi's loop."""

    control: TrainerControl

    def __init__(
        self, loop: Loop, directory: Path, callbacks: list[TrainerCallback] | None = None
    ) -> None:
        self.loop = loop
        policy, optimisation = loop.policy, loop.optimisation
        assert policy.value_head is not None, "PPO needs a value head"
        with quiet_transformers():
            args = ppo_config(
                loop.settings,
                directory,
                learning_rate=optimisation.peak_lr,
                use_cpu=policy.device.type == "cpu",
                **loop.objective.trainer_arguments(loop.target.beta),
            )
            use_device(policy.device)  # transformers' arguments make the first GPU the current one
            super().__init__(
                args=args,
                processing_class=policy.prior.tokenizer,
                model=policy.adapted,
                ref_model=None,
                reward_model=nn.Identity(),
                train_dataset=Dataset.from_dict({"input_ids": [[0]] * loop.settings.batch_size}),
                value_model=_ValueModel(policy.value_head),
                optimizers=(optimisation.optimizer, optimisation.scheduler),
                callbacks=callbacks,
            )
        self.remove_callback(PrinterCallback)

    def train(self) -> None:
        """Run the loop to its end, with TRL's callbacks around it."""
        optimisation = self.loop.optimisation
        optimisation.optimizer, optimisation.backward = self.optimizer, self.accelerator.backward
        self.state.max_steps = self.loop.settings.updates
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


def ppo_config(settings: LoopSettings, directory: Path, **others: Any) -> PPOConfig:
    """The loop's settings as TRL spells them, and `others` that are spelled so already."""
    return PPOConfig(
        output_dir=str(directory),
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=settings.batch_size,
        total_episodes=settings.updates * settings.batch_size,
        num_sample_generations=0,
        stop_token="eos",
        temperature=1.0,
        kl_estimator="k1",
        gamma=1.0,
        **others,
    )
