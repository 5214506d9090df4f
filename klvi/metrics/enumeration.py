"""All sequences listed, and exact values of what is said of them; sums in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from klvi.errors import UserError
from klvi.metrics import text
from klvi.metrics.measurement import Unavailable


@dataclass(frozen=True)
class Enumeration:
    """Every sequence: `tokens` `(S, T)`, `lengths` `(S,)` with the end token, `ended` `(S,)` bool.

    Beyond its length a sequence is padded with the end token.
    """

    tokens: Tensor
    lengths: Tensor
    ended: Tensor

    def __len__(self) -> int:
        return len(self.lengths)


def enumerate_sequences(
    letters: Sequence[int], end: int, length: int, limit: int = 1_000_000
) -> Enumeration:
    """All sequences of `letters` that end with the token `end` or have `length` tokens.

    Raises:
        UserError: there are more than `limit`.
    """
    count = sum(len(letters) ** k for k in range(length)) + len(letters) ** length
    if count > limit:
        raise UserError(
            f"{len(letters)} letters and length {length} make {count:,} sequences, more than the "
            f"{limit:,} that exact evaluation lists; take fewer letters or a smaller length"
        )
    alphabet = torch.tensor(list(letters), dtype=torch.long)
    tokens, lengths = [], []
    for k in range(length + 1):
        # cartesian_prod needs at least two tensors to give a row per combination.
        rows = torch.tensor(list(itertools.product(range(len(letters)), repeat=k))).long()
        words = alphabet[rows.reshape(len(letters) ** k, k)]
        tokens.append(torch.nn.functional.pad(words, (0, length - k), value=end))
        lengths.append(torch.full((len(words),), min(k + 1, length)))
    sizes = torch.cat(lengths)
    ended = torch.ones(count, dtype=torch.bool)
    ended[count - len(letters) ** length :] = False
    return Enumeration(torch.cat(tokens), sizes, ended)


@dataclass(frozen=True)
class Listed:
    """All S sequences under a policy, a prior and a target; tensors `(S,)`, float64, nats.

    Attributes:
        sequences: all sequences.
        log_policy: log π(x).
        log_prior: log π0(x).
        log_target: log P(x), unnormalised; -inf where the target excludes x.
        scores: `(S,)` each, by name.
        beta: units of the reward per nat.
        n: number of samples of the policy, for what depends on it.
        n_prior: number of samples of the prior.
        tilt: nats per unit of gold of gold's own posterior: see `klvi.metrics.split`.
    """

    sequences: Enumeration
    log_policy: Tensor
    log_prior: Tensor
    log_target: Tensor
    scores: Mapping[str, Tensor]
    beta: float
    n: int
    n_prior: int = 0
    tilt: float = 0.0

    @cached_property
    def policy(self) -> Tensor:
        """`(S,)` π(x)."""
        return self.log_policy.exp()

    @cached_property
    def log_z(self) -> float:
        """log Σ P, nats."""
        return float(torch.logsumexp(self.log_target, 0))

    @cached_property
    def log_density(self) -> Tensor:
        """`(S,)` log p(x)."""
        return self.log_target - self.log_z

    @cached_property
    def target(self) -> Tensor:
        """`(S,)` p(x)."""
        return self.log_density.exp()

    @property
    def outside(self) -> float:
        """The policy's probability outside of the target's support."""
        return float(self.policy[self.target == 0].sum())

    @cached_property
    def content(self) -> Tensor:
        """`(S,)` lengths without the end-of-sequence token."""
        return self.sequences.lengths - self.sequences.ended.long()

    @cached_property
    def grams(self) -> list[text.NGrams]:
        """The n-grams of each order."""
        return text.ngrams(self.sequences.tokens, self.content, max(text.ORDERS))

    def mean(self, values: Tensor) -> float:
        """`E_π[f]` of `values` `(S,)`, with 0·∞ = 0."""
        return float(_product(self.policy, values).sum())

    def target_mean(self, values: Tensor) -> float:
        """`E_p[f]` of `values` `(S,)`, with 0·∞ = 0."""
        return float(_product(self.target, values).sum())


def _product(probability: Tensor, values: Tensor) -> Tensor:
    return torch.where(probability > 0, probability * values, 0.0)


def entropy(listed: Listed) -> float:
    """−E_π[log π], nats."""
    return -listed.mean(listed.log_policy)


def length(listed: Listed) -> float:
    """E_π[length], tokens."""
    return float(listed.policy @ listed.sequences.lengths.double())


def perplexity_prior(listed: Listed) -> float:
    """exp(−E_π[log π0]/E_π[length])."""
    return math.exp(-listed.mean(listed.log_prior) / length(listed))


def kl_forward(listed: Listed) -> float:
    """KL(p‖π), nats."""
    return listed.target_mean(listed.log_density - listed.log_policy)


def kl_reverse(listed: Listed) -> float:
    """KL(π‖p), nats."""
    return listed.mean(listed.log_policy - listed.log_target) + listed.log_z


def log_chi2(listed: Listed) -> float:
    """log(1 + χ²(p‖π0)) = log Σ p²/π0, nats."""
    inside = listed.target > 0
    squares = (2 * listed.log_density - listed.log_prior)[inside]
    return float(torch.logsumexp(squares, 0))


def penalised_reward_std(listed: Listed) -> float:
    """Standard deviation under π of β(log P − log π), units of the reward."""
    penalised = listed.beta * (listed.log_target - listed.log_policy)
    return math.sqrt(listed.mean((penalised - listed.mean(penalised)) ** 2))


def effective_sample_size(listed: Listed) -> float:
    """`N·Z²/E_q[w²]` for the mixture q of `n` samples of the policy and `n_prior` of the prior."""
    total = listed.n + listed.n_prior
    log_proposal = listed.log_policy
    if listed.n_prior:
        log_proposal = torch.logaddexp(
            listed.log_policy + math.log(listed.n / total),
            listed.log_prior + math.log(listed.n_prior / total),
        )
    # A sequence without weight may have no probability either.
    squares = torch.where(
        torch.isneginf(listed.log_target), -math.inf, 2 * listed.log_density - log_proposal
    )
    return total * math.exp(-float(torch.logsumexp(squares, 0)))


def distinct(listed: Listed, order: int) -> float | Unavailable:
    """The expected number of types over that of n-grams, in `n` samples."""
    grams = listed.grams[order - 1]
    if len(grams.ids) == 0:
        return Unavailable(f"no sequence has {order} tokens")
    types, owners, _ = (torch.from_numpy(part) for part in grams.counts())
    presence = torch.bincount(types, weights=listed.policy[owners])
    total = listed.n * float(listed.policy @ torch.from_numpy(grams.totals()).double())
    return _expected_types(presence, listed.n) / total


def repetition(listed: Listed, order: int) -> float:
    """The mean share of repeated n-grams within a sequence."""
    return float(listed.policy @ text.repetition(listed.grams[order - 1]))


def duplicates(listed: Listed) -> float:
    """The expected share of `n` samples that repeat an earlier one."""
    return 1 - _expected_types(listed.policy, listed.n) / listed.n


def longest_run(listed: Listed) -> float:
    """The mean length of the longest stretch of one token."""
    return float(listed.policy @ text.longest_run(listed.sequences.tokens, listed.content))


def _expected_types(presence: Tensor, n: int) -> float:
    """Expected number of types in `n` samples, each of which has type g with `presence[g]`."""
    return float(-torch.expm1(n * torch.log1p(-presence.clamp(max=1.0))).sum())
