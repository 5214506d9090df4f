"""Ancestral sampling: completions of the policy itself, scored under policy and prior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from klvi.contexts import Context
from klvi.engine.base import FASTEST, Decoded
from klvi.engine.batching import Batching
from klvi.engine.memory import out_of_memory
from klvi.engine.scoring import (
    Completions,
    NextTokens,
    next_tokens,
    pass_budget,
    token_batches,
    token_entropy,
    token_kl,
)
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.rewards.scoring import scored
from klvi.samplers.base import Sampler
from klvi.samples import Cost, Draw, Samples
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
        """As `sample`, without scores; `rows` `(N,)` of the draw, by default 0 to N − 1."""
        with timed("rollout", policy.device):
            drawn = draw(
                policy,
                contexts,
                max_new_tokens=self.max_new_tokens or policy.prior.support,
                randomness=randomness,
                rows=rows,
                batch_size=self.batch_size,
            )
        with timed("prior", policy.device):
            return rescore(policy, drawn, budget=self.budget, distributions=self.distributions)


@out_of_memory("decoding")
@torch.no_grad()
def draw(
    policy: Policy,
    contexts: Sequence[Context],
    *,
    max_new_tokens: int,
    randomness: Randomness,
    rows: Tensor | None = None,
    batch_size: int | None = 256,
) -> Samples:
    """One completion per context, drawn from the policy at temperature 1; no scores yet.

    Its `log_policy` is that captured on the way, its `log_prior` still 0.

    Args:
        rows: `(N,)` of the draw, whose random numbers these are; by default 0 to N − 1.
        batch_size: completions decoded together; None for all.
    """
    if not contexts:
        raise ValueError("no contexts to complete")
    rows = torch.arange(len(contexts)) if rows is None else rows
    batch_size = batch_size or len(contexts)
    parts = []
    with policy.merged() as model:
        for start in range(0, len(contexts), batch_size):
            batch = contexts[start : start + batch_size]
            prompts = policy.prior.encode(batch)
            policy.prior.check_length(prompts[0].shape[1], max_new_tokens)
            uniforms = randomness.uniforms(rows[start : start + batch_size], max_new_tokens)
            decoded = policy.complete(model, prompts, uniforms)
            parts.append(_unscored(policy, batch, prompts, decoded))
    return parts[0] if len(parts) == 1 else Samples.concatenate(parts)


def _unscored(
    policy: Policy,
    contexts: Sequence[Context],
    prompts: tuple[Tensor, Tensor],
    decoded: Decoded,
) -> Samples:
    log_policy, density = decoded.log_probs, None
    if log_policy is None:
        log_policy = torch.zeros(decoded.tokens.shape, device=policy.device)
    else:
        density = log_policy.double().sum(1)
    return Samples(
        contexts=list(contexts),
        prompt_tokens=prompts[0],
        prompt_lengths=prompts[1],
        tokens=decoded.tokens,
        lengths=decoded.lengths,
        ended=decoded.ended,
        log_policy=log_policy,
        log_prior=torch.zeros_like(log_policy),
        texts=policy.prior.decode(*prompts, decoded.tokens, decoded.lengths),
        values=decoded.values,
        log_density=density,
    )


@dataclass(frozen=True)
class Pass:
    """What one forward pass covers: n of the samples, whose inputs it computes once each.

    Attributes:
        rows: `(n,)` which of the samples.
        inputs: U completions that differ in what a model is given of them.
        place: `(n,)` which of `inputs` each sample's are; None where U = n, in order.
    """

    rows: Tensor
    inputs: Completions
    place: Tensor | None

    def view(self, model: PreTrainedModel) -> NextTokens:
        """What the model says of the n samples."""
        return next_tokens(model, self.inputs).of(self.place)


def passes(
    model: PreTrainedModel,
    samples: Samples,
    budget: int | None = None,
    batching: Batching = FASTEST,
) -> Iterator[Pass]:
    """All samples, once, in passes of at most `budget` tokens; None for what suits the model."""
    budget = budget or pass_budget(model)
    first, place = samples.distinct_inputs()
    for batch in _batches(samples, first, budget, batching):
        chosen = first[batch]
        part = samples.select(chosen).compact()
        inputs = Completions(part.prompt_tokens, part.prompt_lengths, part.tokens, part.lengths)
        if len(first) == len(samples):
            yield Pass(chosen, inputs, None)
            continue
        order = torch.full_like(first, -1)
        order[batch] = torch.arange(len(batch), device=batch.device)
        rows = (order[place] >= 0).nonzero()[:, 0]
        yield Pass(rows, inputs, order[place[rows]])


def _batches(samples: Samples, rows: Tensor, budget: int, batching: Batching) -> Iterator[Tensor]:
    """Places in `rows` of each pass."""
    lengths, prompts = samples.lengths[rows], samples.prompt_lengths[rows]
    for part in batching.together(prompts):
        for batch in token_batches(lengths[part], int(prompts[part].max()), budget):
            yield part[batch]


@out_of_memory("scoring")
@torch.no_grad()
def rescore(
    policy: Policy, samples: Samples, *, budget: int | None = None, distributions: bool = False
) -> Samples:
    """The samples with `log_prior`.

    Where decoding did not say what training will say, also with `log_policy` and the value head's
    `values`, from a pass of the policy as it is now; with `distributions` in any case, and with
    `entropy` and `kl` besides.
    """
    again = distributions or not policy.scores_while_decoding
    if policy.is_prior and not again:
        return replace(samples, log_prior=samples.log_policy)
    names = ["log_prior", *(["log_policy"] if again else [])]
    names += ["values"] if again and policy.value_head is not None else []
    names += ["entropy", "kl"] if distributions else []
    fresh: dict[str, Any] = {name: torch.zeros_like(samples.log_policy) for name in names}
    for batch in passes(policy.model, samples, budget, policy.batching):
        for name, value in _scores(policy, samples, batch, again, distributions).items():
            fresh[name][batch.rows, : value.shape[1]] = value
    return replace(samples, **fresh)


def _scores(
    policy: Policy, samples: Samples, batch: Pass, again: bool, distributions: bool
) -> dict[str, Tensor]:
    """The `(n, T)` fields that `rescore` renews, of the samples of one pass."""
    prior = batch.view(policy.prior.model)
    tokens = samples.tokens[batch.rows, : prior.mask.shape[1]]
    scores = {"log_prior": prior.log_probs(tokens)}
    if again:
        current = prior if policy.is_prior else batch.view(policy.model)
        scores["log_policy"] = current.log_probs(tokens)
        if policy.value_head is not None:
            scores["values"] = current.per_token(policy.value_head(current.hidden))
        if distributions:
            scores["entropy"] = current.per_token(token_entropy(current.logits))
            scores["kl"] = current.per_token(token_kl(current.logits, prior.logits))
    return scores


@out_of_memory("scoring")
@torch.no_grad()
def log_policy_of(policy: Policy, samples: Samples, budget: int | None = None) -> Tensor:
    """`(N, T)` log π of given samples under the policy as it is now, nats per token."""
    log_policy = torch.zeros_like(samples.log_policy)
    for batch in passes(policy.model, samples, budget, policy.batching):
        width = batch.inputs.tokens.shape[1]
        values = batch.view(policy.model).log_probs(samples.tokens[batch.rows, :width])
        log_policy[batch.rows, :width] = values
    return log_policy
