"""A defensive mixture of the policy and the prior (Hesterberg 1995)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.rewards.scoring import scored
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.samplers.schema import MixtureProposal
from klvi.samples import Cost, Draw, Samples
from klvi.schema import check_fields
from klvi.targets.base import Target
from klvi.timing import timed


@dataclass(frozen=True)
class Mixture(Sampler):
    """`prior_share` of the completions are the prior's, of contexts spread evenly over the batch.

    A policy that has lost a rare sequence seldom draws it again; in the mixture it comes up as
    often as the prior has it.
    """

    ancestral: Ancestral = field(default_factory=Ancestral)
    prior_share: float = 0.5

    def __post_init__(self) -> None:
        check_fields(MixtureProposal, self)

    def sample(
        self,
        policy: Policy,
        target: Target,
        contexts: Sequence[Context],
        randomness: Randomness,
    ) -> Draw:
        """The policy's completions and then the prior's, weighted towards the policy."""
        chosen = from_prior(randomness.first_row, len(contexts), self.prior_share)
        ours, the_priors = (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]

        def complete(source: Policy, rows: Tensor) -> Samples:
            wanted = [contexts[row] for row in rows.tolist()]
            return self.ancestral.complete(source, wanted, randomness, rows)

        parts = [complete(policy, ours)] if len(ours) else []
        if len(the_priors):
            drawn = complete(policy.without_adapter(), the_priors)
            with timed("prior", policy.device):
                log_policy = policy.log_probs(drawn, self.ancestral.budget)
            parts.append(replace(drawn, log_policy=log_policy))
        samples = Samples.concatenate(parts)
        density = log_mixture(samples, int(chosen.sum()))
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


def from_prior(first: int, count: int, share: float) -> Tensor:
    """`(count,)` bool, which of the rows from `first` on are the prior's: a `share`, evenly spread.

    A row's own number tells, so that processes that share a rollout choose as one would.
    """
    before = (torch.arange(first, first + count + 1).double() * share).floor()
    return before.diff() > 0
