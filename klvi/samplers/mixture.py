"""A defensive mixture of the policy and the prior (Hesterberg 1995)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.rewards.scoring import scored
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.samples import Cost, Draw, Samples
from klvi.targets.base import Target
from klvi.timing import timed

T = TypeVar("T")


@dataclass(frozen=True)
class Mixture(Sampler):
    """`prior_share` of the completions are the prior's, of contexts spread evenly over the batch.

    A policy that has lost a rare sequence seldom draws it again; in the mixture it comes up as
    often as the prior has it.
    """

    ancestral: Ancestral = field(default_factory=Ancestral)
    prior_share: float = 0.5

    def sample(
        self,
        policy: Policy,
        target: Target,
        contexts: Sequence[Context],
        randomness: Randomness,
    ) -> Draw:
        """The policy's completions and then the prior's, weighted towards the policy."""
        others = int(self.prior_share * len(contexts))
        for_policy, for_prior = split_evenly(contexts, others)
        of_policy, of_prior = map(torch.tensor, split_evenly(range(len(contexts)), others))
        samples = self.ancestral.complete(policy, for_policy, randomness, of_policy)
        if for_prior:
            prior = policy.without_adapter()
            drawn = self.ancestral.complete(prior, for_prior, randomness, of_prior)
            with timed("prior", policy.device):
                log_policy = policy.log_probs(drawn, self.ancestral.budget)
            samples = Samples.concatenate([samples, replace(drawn, log_policy=log_policy)])
        density = log_mixture(samples, len(for_prior))
        weight = samples.log_policy_sequence - density
        samples = replace(samples, log_density=density, log_weight=weight)
        with timed("reward", policy.device):
            samples = scored(samples, target.scorers, update=randomness.update)
        return Draw(samples, cost=Cost(2 * int(samples.lengths.sum()), len(samples)))


def log_mixture(samples: Samples, from_prior: int) -> Tensor:
    """`(N,)` log q, nats per sequence, of samples whose last `from_prior` are the prior's.

    The balance heuristic (Veach and Guibas 1995): every sample is weighed by the mixture of its
    context, also where it is known which part made it. What a decoder drew it from may differ from
    the policy or prior that is scored: the heuristic's shares come from the latter, and each sample
    is divided by the density of what drew it. Shares that sum to 1 at every x keep the estimate
    unbiased, whatever they are.
    """
    count = len(samples)
    of_prior = torch.arange(count) >= count - from_prior
    _, place, sizes = samples.context.unique(return_inverse=True, return_counts=True)
    share = torch.zeros(len(sizes)).double().index_add(0, place, of_prior.double()) / sizes
    share = share[place].to(samples.lengths.device)
    log_policy, log_prior = samples.log_policy_sequence, samples.log_prior_sequence
    mixture = torch.logaddexp(log_policy + (1 - share).log(), log_prior + share.log())
    if samples.log_density is None:
        return mixture
    own = torch.where(of_prior.to(share.device), log_prior, log_policy)
    return mixture + (samples.log_density.double() - own)


def split_evenly(items: Sequence[T], others: int) -> tuple[list[T], list[T]]:
    """The items parted in two, `others` of them, evenly spread, in the second part."""
    count = len(items)
    second = [(row + 1) * others // count > row * others // count for row in range(count)]
    return (
        [item for item, chosen in zip(items, second, strict=True) if not chosen],
        [item for item, chosen in zip(items, second, strict=True) if chosen],
    )
