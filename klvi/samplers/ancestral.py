"""Ancestral sampling: completions of the policy itself, scored under policy and prior."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.engine.base import Decoded, Prefixes
from klvi.engine.memory import out_of_memory
from klvi.engine.micro_batch import MicroBatch
from klvi.engine.scoring import token_entropy, token_kl
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.rewards.scoring import scored
from klvi.samplers.base import Sampler
from klvi.samples import Completions, Cost, Draw, Samples
from klvi.targets.base import Target
from klvi.timing import timed


@dataclass(frozen=True)
class Ancestral(Sampler):
    """Completions of the policy itself.

    Attributes:
        max_new_tokens: tokens of a completion at most; None for what the prior was loaded with.
        batch_size: completions decoded together; None for all.
        budget: tokens scored together; None for what suits model and device.
        distributions: whether samples have `entropy` and `kl` of the next-token distributions.
    """

    max_new_tokens: int | None = None
    batch_size: int | None = 256
    budget: int | None = None
    distributions: bool = False

    @staticmethod
    def itself(ancestral: Ancestral) -> Ancestral:
        """The policy's own samples, as a proposal or a sampler."""
        return ancestral

    def sample(
        self,
        policy: Policy,
        target: Target,
        contexts: Sequence[Context],
        randomness: Randomness,
    ) -> Draw:
        """A completion per context at temperature 1."""
        samples = self.complete(policy, contexts, randomness)
        with timed("reward", policy.device):
            samples = scored(samples, target.scorers, update=randomness.update)
        models = 1 if policy.is_prior else 2
        cost = Cost(tokens=models * int(samples.lengths.sum()), rewards=len(samples))
        return Draw(samples, cost=cost)

    def complete(
        self,
        policy: Policy,
        contexts: Sequence[Context],
        randomness: Randomness,
        rows: Tensor | None = None,
    ) -> Samples:
        """As `sample`, without scores; `rows` `(N,)` of the draw, by default 0 to N − 1.

        Raises ValueError for no contexts.
        """
        if not contexts:
            raise ValueError("no contexts to complete")
        with timed("rollout", policy.device):
            rows = torch.arange(len(contexts)) if rows is None else rows
            prompts = Prefixes(*policy.prior.encode(contexts))
            limit = self.max_new_tokens or policy.prior.support
            policy.prior.check_length(prompts.tokens.shape[1], limit)
            decoded = self.decode(policy, prompts, randomness, rows)
            ids = Completions(prompts.tokens, prompts.lengths, decoded.tokens, decoded.lengths)
            texts = policy.prior.decode(*vars(ids).values())
        with timed("prior", policy.device):
            scores = token_scores(policy, ids, decoded, self.budget, self.distributions)
        density = None if decoded.log_probs is None else decoded.log_probs.double().sum(1)
        return Samples(
            **vars(ids),
            **scores,
            contexts=list(contexts),
            ended=decoded.ended,
            texts=texts,
            log_density=density,
        )

    @out_of_memory("decoding")
    @torch.no_grad()
    def decode(
        self, policy: Policy, prompts: Prefixes, randomness: Randomness, rows: Tensor
    ) -> Decoded:
        """Completions of N prompts, with the random numbers of `rows` `(N,)` of the draw."""
        limit, parts = self.max_new_tokens or policy.prior.support, []
        with policy.merged() as model:
            for part in torch.arange(len(prompts)).split(self.batch_size or len(prompts)):
                uniforms = randomness.uniforms(rows[part], limit)
                view = policy.view(model)
                parts.append(policy.engine.complete(view, prompts.select(part), uniforms))
        return Decoded.concatenate(parts)


@out_of_memory("scoring")
@torch.no_grad()
def token_scores(
    policy: Policy,
    completions: Completions,
    decoded: Decoded | None = None,
    budget: int | None = None,
    distributions: bool = False,
) -> dict[str, Any]:
    """`log_policy`, `log_prior` and, with a value head, `values` of samples, each `(N, T)`.

    What was `decoded` says it of the policy where that is what training will say; otherwise, and
    with `distributions`, which add `entropy` and `kl`, a pass of the policy as it is now does.
    """
    known: dict[str, Any] = {}
    if decoded is not None and policy.scores_while_decoding and not distributions:
        known = {"log_policy": decoded.log_probs, "values": decoded.values}
        if policy.is_prior:
            return known | {"log_prior": decoded.log_probs}
    shape, device = completions.tokens.shape, policy.device
    fresh: dict[str, Tensor] = defaultdict(lambda: torch.zeros(shape, device=device))
    for batch in policy.micro_batches(completions, budget):
        for name, value in _scores(policy, batch, not known, distributions).items():
            fresh[name][batch.rows, : value.shape[1]] = value.float()
    return known | fresh


def _scores(
    policy: Policy, batch: MicroBatch, again: bool, distributions: bool
) -> dict[str, Tensor]:
    """The `(n, T)` scores of one pass; those of the policy where they are wanted `again`."""
    prior = batch.forward(policy.prior.model)
    scores = {"log_prior": prior.log_probs()}
    if again:
        current = prior if policy.is_prior else batch.forward(policy.model)
        scores["log_policy"] = current.log_probs()
        if policy.value_head is not None:
            scores["values"] = current.per_token(policy.value_head(current.hidden))
        if distributions:
            scores["entropy"] = current.per_token(token_entropy(current.logits))
            scores["kl"] = current.per_token(token_kl(current.logits, prior.logits))
    return scores
