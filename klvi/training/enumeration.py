"""Exact values of an evaluation's metrics, where all sequences of the prior can be listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from klvi.config.rules import MOST_SEQUENCES
from klvi.config.schema import EnumerableModelConfig, MeasureConfig
from klvi.contexts import Context
from klvi.errors import UserError
from klvi.metrics.exact import Enumeration, enumerate_sequences, exact_metrics
from klvi.metrics.measurement import Unavailable
from klvi.models.policy import Policy
from klvi.models.scoring import Completions, next_tokens
from klvi.rewards.base import Reward
from klvi.rewards.scoring import score
from klvi.targets.base import Target

Exact = Mapping[str, float | Unavailable]


@dataclass
class ExactEvaluator:
    """Gives the metrics of the policy as it is now the values that they estimate.

    What does not change during a run (the sequences, their prior, reward and target) is computed
    once. Everything is in float64, whatever the policy is trained in.
    """

    config: MeasureConfig
    policy: Policy
    target: Target
    reward: Reward
    _scored: tuple[Tensor, Tensor] | None = field(default=None, init=False)

    def evaluate(self, update: int) -> Exact:
        """The exact value of every metric that has one, by the metric's name.

        Raises UserError where there are too many sequences, or the reward fails; `update` is named
        in its errors.
        """
        reward, log_target = self.log_target(update)
        settings = self.config.evaluation
        return exact_metrics(
            self.sequences,
            self.log_policy(),
            self.log_prior,
            log_target,
            reward,
            beta=self.config.beta,
            n=settings.samples,
            n_prior=settings.prior_samples,
        )

    @cached_property
    def sequences(self) -> Enumeration:
        """All S sequences that a rollout can have."""
        model = self.config.model
        assert isinstance(model, EnumerableModelConfig)
        end = self.policy.prior.stop_token_ids[0]
        length = self.config.rollout.max_new_tokens
        return enumerate_sequences(range(model.letters), end, length, MOST_SEQUENCES)

    @cached_property
    def log_prior(self) -> Tensor:
        """`(S,)` log π0(x), nats per sequence."""
        return self._log_sequences(self.policy.prior.model)

    def log_policy(self) -> Tensor:
        """`(S,)` log π(x) of the policy as it is now, nats per sequence."""
        return self._log_sequences(self.policy.model)

    @torch.no_grad()
    def _log_sequences(self, model: PreTrainedModel) -> Tensor:
        log_next = self._log_next(model)
        tokens, lengths = self.sequences.tokens, self.sequences.lengths
        places = torch.arange(tokens.shape[1])
        chosen = log_next[self._branches[:, None], places, tokens]
        return torch.where(places < lengths[:, None], chosen, 0.0).sum(1)

    def log_target(self, update: int) -> tuple[Tensor, Tensor]:
        """`(S,)` rewards of all texts and `(S,)` log P(x), unnormalised, nats per sequence."""
        if self._scored is None:
            tokens, lengths = self.sequences.tokens, self.sequences.lengths
            prompt, size = (part.cpu() for part in self.policy.prior.encode([Context(0)]))
            prompts = prompt.expand(len(tokens), -1), size.expand(len(tokens))
            texts = self.policy.prior.decode(*prompts, tokens, lengths)
            reward = score(self.reward, texts, [Context(0)] * len(texts), update=update).double()
            self._scored = reward, self.log_prior + self.target.log_evidence(reward)
            if bool((self._scored[1] == -torch.inf).all()):
                raise UserError(
                    f"target={self.target.name}: none of the prior's {len(texts):,} sequences "
                    "satisfies it: lower target.threshold, or choose another reward"
                )
        return self._scored

    def _log_next(self, model: PreTrainedModel) -> Tensor:
        """`(R, T, V)` next-token log-probabilities along each of the R longest prefixes.

        The prefixes of T − 1 letters pass through every shorter one: with them all sequences are
        scored, and no prefix needs a pass of its own.
        """
        full = self.sequences.tokens.shape[1]
        rows = self.sequences.tokens[self._longest]
        prompt, prompt_lengths = self.policy.prior.encode([Context(0)])
        parts = []
        at_once = self.config.rollout.batch_size or len(rows)
        with float64(model):
            for part in rows.to(self.policy.device).split(at_once):
                size = len(part)
                view = next_tokens(
                    model,
                    Completions(
                        prompt.expand(size, -1),
                        prompt_lengths.expand(size),
                        part,
                        torch.full((size,), full, device=part.device),
                    ),
                )
                parts.append(view.logits.log_softmax(-1).reshape(size, full, -1).cpu())
        return torch.cat(parts)

    @cached_property
    def _longest(self) -> Tensor:
        """`(R,)` the sequences of T − 1 letters and the end token, in their order."""
        sequences = self.sequences
        return (sequences.ended & (sequences.lengths == sequences.tokens.shape[1])).nonzero()[:, 0]

    @cached_property
    def _branches(self) -> Tensor:
        """`(S,)` the first of the R longest prefixes that begins with each sequence."""
        letters = int(self.policy.prior.stop_token_ids[0])
        prefix = self.sequences.tokens[:, :-1]
        digits = torch.where(prefix < letters, prefix, 0)
        powers = letters ** torch.arange(prefix.shape[1]).flip(0)
        return (digits * powers).sum(1)


@contextmanager
def float64(model: nn.Module) -> Iterator[nn.Module]:
    """The model in double precision; afterwards its weights are the very tensors they were."""
    held = [*model.parameters(), *model.buffers()]
    originals = [tensor.data for tensor in held]
    for tensor in held:
        if tensor.is_floating_point():
            tensor.data = tensor.data.double()
    try:
        yield model
    finally:
        for tensor, original in zip(held, originals, strict=True):
            tensor.data = original
