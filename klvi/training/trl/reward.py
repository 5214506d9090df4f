"""A Bradley-Terry reward model in TRL's trainer.

TRL's are the loss, −log σ(r(chosen) − r(rejected)), the batches and the optimizer; texts come
tokenized, as klvi's rewards will read them.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback
from trl import RewardConfig, RewardTrainer

from klvi.policy.loading import quiet_transformers

# (step from 1, loss in nats per pair)
OnStep = Callable[[int, float], None]
# Steps over which the loss that is shown is averaged, about.
SHOWN_STEPS = 10


@dataclass(frozen=True)
class RewardSettings:
    """How a reward model is trained.

    Attributes:
        batch_size: pairs of a step.
        lr: highest learning rate, from which a cosine goes to 0 after a warm-up of a tenth.
        lora: None to train all weights.
    """

    epochs: int
    batch_size: int
    lr: float
    lora: LoraConfig | None


def train_reward_model(
    model: PreTrainedModel,
    tokenizer: Any,
    chosen: Sequence[list[int]],
    rejected: Sequence[list[int]],
    settings: RewardSettings,
    seed: int,
    on_step: OnStep,
) -> PreTrainedModel:
    """Train a classifier of one logit on N pairs of token ids, in place; returns it, LoRA merged.

    `seed` tells the adapter's weights and the order of the pairs.
    """
    lora = copy.deepcopy(settings.lora)
    if lora is not None:
        lora.task_type, lora.modules_to_save = "SEQ_CLS", _head(model)
    pairs = Dataset.from_dict({"chosen_ids": list(chosen), "rejected_ids": list(rejected)})
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        trainer = RewardTrainer(
            model=model,
            args=_arguments(folder, settings, seed, len(pairs), model.device.type == "cpu"),
            train_dataset=pairs,
            processing_class=copy.deepcopy(tokenizer),
            peft_config=lora,
            callbacks=[_Progress(on_step)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    trained: Any = trainer.accelerator.unwrap_model(trainer.model)
    merged: PreTrainedModel = trained if lora is None else trained.merge_and_unload()
    return merged.eval()


def _head(model: PreTrainedModel) -> list[str]:
    """The names of the modules with weights that a classifier has beside its base model."""
    return [
        name
        for name, module in model.named_children()
        if module is not model.base_model and any(True for _ in module.parameters())
    ]


def _arguments(
    folder: str, settings: RewardSettings, seed: int, pairs: int, use_cpu: bool
) -> RewardConfig:
    steps = settings.epochs * -(-pairs // settings.batch_size)
    arguments = RewardConfig(
        output_dir=folder,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.lr,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 10,
        max_length=None,
        seed=seed,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=use_cpu,
        dataloader_pin_memory=False,
        save_strategy="no",
        eval_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = 1  # else a step's batch would be that of every GPU there is
    return arguments


class _Progress(TrainerCallback):
    """Tells each step with a running mean of the loss."""

    def __init__(self, on_step: OnStep) -> None:
        self._on_step, self._loss = on_step, math.nan

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loss = kwargs["logs"].get("loss")
        if loss is None:  # the last one, of the whole training
            return
        old = loss if math.isnan(self._loss) else self._loss
        self._loss = old + (loss - old) / SHOWN_STEPS
        self._on_step(state.global_step, self._loss)
