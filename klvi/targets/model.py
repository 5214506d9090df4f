"""Another language model as the target: distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from klvi.engine.memory import out_of_memory
from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior, load_prior
from klvi.policy.schema import ModelConfig, name_of_path
from klvi.rewards.base import Reward
from klvi.rewards.python import as_reward
from klvi.samples import Completions, Samples
from klvi.targets.base import Target, checked_beta


@dataclass(frozen=True)
class LanguageModel(Target):
    """p is a teacher with the prior's tokenizer: log potential log teacher(x) − log π0(x).

    `kl` is then on-policy distillation (Agarwal et al. 2023, arXiv 2306.13649), `gdc` covers the
    teacher's mass. Z = 1, also over completions that are cut at `max_new_tokens`, so that KL(π‖p) =
    E_π[log π − log p], nats per sequence, needs no importance weights. The reward and `beta` do not
    enter p: the reward is measured, and `beta` scales losses.

    Raises UserError for a teacher whose texts are made of other tokens than the prior's.
    """

    name: ClassVar[str] = "model"
    reward: Reward
    prior: Prior
    teacher: Prior
    beta: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_beta(self.beta))
        object.__setattr__(self, "reward", as_reward(self.reward))
        differs = _difference(self.teacher, self.prior)
        if differs:
            raise UserError(
                f"target.path: teacher {self.teacher.name} {differs}; take a teacher of the same "
                "model family and kind, or another model="
            )

    @staticmethod
    def load(
        path: str,
        revision: str | None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] | None,
        trust_remote_code: bool,
        reward: Reward,
        prior: Prior,
        beta: float = 0.1,
    ) -> LanguageModel:
        """With the teacher in a folder or of a hub id, on the prior's device.

        Raises UserError where it cannot be loaded, or is none for this prior.
        """
        config = ModelConfig(
            name=name_of_path(path),
            path=path,
            revision=revision,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        )
        with out_of_memory("loading"):
            teacher = load_prior(config, str(prior.device), kernels="none", key="target.path")
        return LanguageModel(reward, prior, teacher, beta)

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """The reward, which is only measured."""
        return {"reward": self.reward}

    @property
    def log_z(self) -> float:
        """0: the teacher's probabilities sum to 1."""
        return 0.0

    def log_potential(self, samples: Samples) -> Tensor:
        """log teacher(x) − log π0(x): `(N,)`, nats."""
        width = samples.prompt_tokens.shape[1]
        self.teacher.check_length(width, samples.tokens.shape[1])
        log_prior = samples.log_prior_sequence
        return self._log_teacher(samples).to(log_prior.device) - log_prior

    @out_of_memory("scoring")
    @torch.no_grad()
    def _log_teacher(self, samples: Samples) -> Tensor:
        """`(N,)` nats per sequence, float64, over the tokens that the prior can draw."""
        device, outputs = self.teacher.device, _outputs(self.prior)
        given = Completions(
            samples.prompt_tokens.to(device),
            samples.prompt_lengths.to(device),
            samples.tokens.to(device),
            samples.lengths.to(device),
        )
        total = torch.zeros(len(given), dtype=torch.float64, device=device)
        policy = Policy(self.teacher)
        for batch in policy.micro_batches(given):
            view = batch.forward(policy.model)
            view = replace(view, logits=view.logits[:, :outputs])
            total[batch.rows] = view.log_probs().double().sum(1)
        return total


def _outputs(prior: Prior) -> int:
    """How many tokens a model can draw, those that only fill its embedding included."""
    return int(prior.plain.get_output_embeddings().weight.shape[0])


def _difference(teacher: Prior, prior: Prior) -> str | None:
    """In what the tokens of two models differ; None where they are the same."""
    vocabularies = teacher.tokenizer.get_vocab(), prior.tokenizer.get_vocab()
    if vocabularies[0] != vocabularies[1]:
        return f"has another vocabulary than prior {prior.name}"
    if set(teacher.stop_token_ids) != set(prior.stop_token_ids):
        theirs, ours = (
            " or ".join(prior.tokenizer.convert_ids_to_tokens(list(model.stop_token_ids)))
            for model in (teacher, prior)
        )
        return f"ends texts with {theirs}, prior {prior.name} with {ours}"
    # What a prior without a start token of its own is given as one, a teacher reads like a prompt.
    if teacher.tokenizer.bos_token_id != prior.tokenizer.bos_token_id:
        return f"starts texts with another token than prior {prior.name}"
    if _outputs(teacher) < _outputs(prior):
        return f"draws {_outputs(teacher):,} tokens, prior {prior.name} {_outputs(prior):,}"
    return None
