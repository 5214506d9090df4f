"""TRL's own `PPOTrainer.train()` on the same prior, batch, length, epochs, reward and LoRA.

The prior is loaded by transformers alone. The reward is klvi's, in the shape TRL asks for: a
module that decodes the completions to text and scores them.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PrinterCallback,
)

from klvi.contexts import unprompted
from klvi.engine.devices import choose_device
from klvi.objectives.build import build_objective
from klvi.policy.loading import quiet_transformers
from klvi.policy.schema import ModelConfig
from klvi.policy.tiny import tiny_path
from klvi.rewards.base import Reward
from klvi.rewards.build import build_reward
from klvi.runs.assembly import loop_settings
from klvi.runs.schema import TrainConfig
from klvi.training.trl.ppo import ppo_config  # sets TRL's environment before TRL is imported
from scripts.bench.measurement import Measurement, Recorder
from scripts.bench.workload import Workload

from datasets import Dataset  # isort: skip
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer  # isort: skip


class TextReward(nn.Module):
    """A reward on text, as TRL asks for it: "hidden states" of width 1 that hold the score."""

    base_model_prefix = "backbone"

    def __init__(self, reward: Reward, tokenizer: PreTrainedTokenizerBase, prompt: int) -> None:
        super().__init__()
        self.reward, self.tokenizer, self.prompt = reward, tokenizer, prompt
        self.score = nn.Identity()

    def backbone(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> SimpleNamespace:
        """The score at every position, `(N, P + T, 1)`."""
        ids = input_ids[:, self.prompt :].tolist()
        mask = attention_mask[:, self.prompt :].tolist()
        rows = [
            [token for token, real in zip(row, kept, strict=True) if real]
            for row, kept in zip(ids, mask, strict=True)
        ]
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        found = self.reward(texts, unprompted(len(texts)))
        scores = torch.as_tensor(found, device=input_ids.device)
        hidden = scores.float()[:, None, None].expand(*input_ids.shape, 1)
        return SimpleNamespace(hidden_states=(hidden,))


def build_trainer(
    config: TrainConfig,
    model: nn.Module,
    values: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    natural: bool,
) -> PPOTrainer:
    """TRL's trainer with klvi's settings; without `natural` no token ends a completion."""
    start = [tokenizer.bos_token_id]
    tokenizer.add_special_tokens({"pad_token": "<pad>"})  # an id that the model cannot emit
    arguments = replace(
        trl_arguments(config, folder),
        stop_token="eos" if natural else None,
        local_rollout_forward_batch_size=config.batch_size,
        save_strategy="no",
    )
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=model,
        ref_model=None,
        reward_model=TextReward(build_reward(config.reward, config.device), tokenizer, len(start)),
        train_dataset=Dataset.from_dict({"input_ids": [start] * config.batch_size}),
        value_model=values,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def trl_arguments(config: TrainConfig, folder: Path) -> PPOConfig:
    """klvi's settings as TRL spells them."""
    assert config.optim.lr is not None, "chosen once the model is loaded"
    return ppo_config(
        loop_settings(config),
        folder,
        learning_rate=config.optim.lr,
        use_cpu=choose_device(config.device) == "cpu",
        response_length=config.max_new_tokens,
        **build_objective(config.objective).trainer_arguments(config.beta),
    )


def load(config: TrainConfig) -> tuple[nn.Module, nn.Module, PreTrainedTokenizerBase]:
    """Policy, value model and tokenizer, as TRL's documentation loads them."""
    assert isinstance(config.model, ModelConfig)
    path = config.model.path or tiny_path()
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(path)
        base = AutoModelForCausalLM.from_pretrained(path, dtype=config.model.dtype)
        values = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    lora = LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        target_modules=config.lora.targets or "all-linear",
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, lora), values, tokenizer


def instrument(trainer: PPOTrainer, recorder: Recorder, workload: Workload) -> None:
    """Time the parts of `train` by the functions it calls; learning ends where it logs."""
    generate, forward, get_reward = (
        ppo_trainer.batch_generation,
        ppo_trainer.forward,
        ppo_trainer.get_reward,
    )
    in_stage = {"reward": recorder.timed("reward", get_reward)}
    in_stage["values"] = recorder.timed("values", get_reward)
    prior = recorder.timed("prior", forward)
    learning_since: list[float] = []
    counts: list[int] = []

    def counted_generation(*arguments: Any) -> tuple[Tensor, Tensor]:
        sequences, logits = recorder.timed("generation", generate)(*arguments)
        counts.append(sequences.shape[0] * logits.shape[1])
        return sequences, logits

    def marked_forward(*arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return prior(*arguments)
        if not learning_since:
            learning_since.append(recorder.now())
        return forward(*arguments)

    def named_reward(model: nn.Module, *arguments: Any) -> Any:
        stage = "reward" if isinstance(model, TextReward) else "values"
        return in_stage[stage](model, *arguments)

    def log(record: dict[str, float], *_: object) -> None:
        recorder.add("update", recorder.now() - learning_since.pop())
        tokens = counts.pop()
        assert workload.natural or tokens == workload.batch * workload.length
        recorder.end_update(tokens)

    ppo_trainer.batch_generation, ppo_trainer.forward = counted_generation, marked_forward
    ppo_trainer.get_reward, trainer.log = named_reward, log


def measure(workload: Workload) -> Measurement:
    """The workload's updates."""
    recorder = Recorder(workload.device, workload.warmup)
    config = workload.config()
    torch.set_num_threads(config.threads or torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, *load(config), Path(folder), natural=workload.natural)
        instrument(trainer, recorder, workload)
        recorder.start()
        trainer.train()
    return recorder.finish()
