"""Statistics of texts as token sequences: repetition within a sample, likeness across samples.

The end-of-sequence token belongs to no n-gram; it counts in `length`, and in whether two samples
are the same. Tokens are padded `(N, T)` arrays with lengths `(N,)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from klvi.metrics.intervals import Estimate, estimate

Integers = NDArray[np.int64]
ORDERS = (1, 2, 3, 4)
BLEU_ORDER = 5
BLEU_FLOOR = 0.1
BLEU_GROUPS = 20
SMOOTHING = 10
# Samples that a type occurs in at the most for it to be rare.
RARE, HALF_A_TYPE = 3, 0.5


@dataclass(frozen=True)
class NGrams:
    """All n-grams of N samples for one n.

    Attributes:
        ids: `(M,)` number of each n-gram's type, from 0.
        owners: `(M,)` index of the sample it stands in.
        samples: N.
    """

    ids: Integers
    owners: Integers
    samples: int

    def totals(self) -> Integers:
        """`(N,)` n-grams in each sample."""
        return np.bincount(self.owners, minlength=self.samples)

    def counts(self) -> tuple[Integers, Integers, Integers]:
        """Type, owner and count `(K,)` of each type in each sample that has it, sorted by type."""
        pairs, counts = np.unique(self.ids * self.samples + self.owners, return_counts=True)
        return pairs // self.samples, pairs % self.samples, counts


def ngrams(tokens: Tensor, lengths: Tensor, orders: int) -> list[NGrams]:
    """The n-grams for n = 1 to `orders` of the first `lengths` `(N,)` tokens of `(N, T)`."""
    grid, sizes = tokens.cpu().numpy(), lengths.cpu().numpy()
    samples, width = grid.shape
    position = np.arange(width)
    ids = np.zeros((samples, width + 1), dtype=np.int64)
    found = []
    vocabulary = int(grid.max(initial=0)) + 1
    for n in range(1, orders + 1):
        span = max(width - n + 1, 0)
        # A type of n tokens is its first n − 1 tokens' type and its last token.
        codes = ids[:, :span] * vocabulary + grid[:, n - 1 :]
        inside = position[:span] + n <= sizes[:, None]
        _, inverse = np.unique(codes[inside], return_inverse=True)
        ids = np.zeros((samples, span), dtype=np.int64)
        ids[inside] = inverse
        owners = np.broadcast_to(np.arange(samples)[:, None], inside.shape)[inside]
        found.append(NGrams(inverse.astype(np.int64), owners, samples))
    return found


def distinct(grams: NGrams, units: Tensor | None = None) -> Estimate | None:
    """distinct-n: types over tokens of all samples' n-grams (Li et al. 2016, arXiv 1510.03055).

    None where there is no n-gram. Samples that share a unit `(N,)` leave the corpus together.
    """
    if units is not None:
        owners, count = units.numpy()[grams.owners], int(units.max()) + 1
        found = distinct(replace(grams, owners=owners, samples=count))
        return None if found is None else replace(found, n=grams.samples, units=float(count))
    n, total = grams.samples, len(grams.ids)
    if total == 0:
        return None
    types, owners, _ = grams.counts()
    holders = np.bincount(types)
    value = len(holders) / total
    alone = np.bincount(owners[holders[types] == 1], minlength=n)
    first = estimate(value, torch.from_numpy((alone - value * grams.totals()) * n / total))
    shared = _shared_types(types, owners, holders) / total**2
    error = math.sqrt(
        max(first.error**2 - shared, first.error**2 / 2) + _rare_types(holders) / total**2
    )
    return replace(first, error=error, skewness=0.0)


def _rare_types(holders: Integers) -> float:
    """A pseudo-count for intervals of small counts (Agresti and Coull 1998), in types squared.

    Where some types are rare, others may be unseen, also when none happens to have a sample alone.
    """
    return HALF_A_TYPE**2 if holders.min() <= RARE else 0.0


def _shared_types(types: Integers, owners: Integers, holders: Integers) -> float:
    """What types with several holders take off the variance of the number of types.

    A leave-one-out variance counts only what each sample has alone, and is too large where samples
    coincide. By the covariance expansion of Poisson functionals (Houdré and Pérez-Abreu 1995) the
    rest is `Σ_k (−1)^k Σ_S n_S²`, n_S the number of types that exactly the k ≥ 2 samples S hold:
    Good and Toulmin's (1956) f2 − f3 + … where no sample has two types. The series is smoothed
    binomially (Efron and Thisted 1976), since for common types it is noise.
    """
    starts = np.concatenate([[0], np.cumsum(holders)[:-1]])
    keys = np.random.default_rng(0).integers(2**62, size=int(owners.max()) + 1)
    _, first, sizes = np.unique(
        np.add.reduceat(keys[owners], starts), return_index=True, return_counts=True
    )
    orders = holders[first]
    weights = np.array([_binomial_tail(SMOOTHING, k) for k in range(SMOOTHING + 1)])
    signs = np.where(orders % 2 == 0, 1.0, -1.0)
    used = (orders > 1) & (orders <= SMOOTHING)
    return float(((signs * sizes**2)[used] * weights[orders[used]]).sum())


def _binomial_tail(n: int, k: int) -> float:
    """The probability of at least `k` heads in `n` tosses."""
    return 0.5**n * sum(math.comb(n, i) for i in range(k, n + 1))


def repetition(grams: NGrams) -> Tensor:
    """seq-rep-n `(N,)`: 1 − types/tokens of each sample's n-grams.

    0 for a sample of fewer than n tokens (Welleck et al. 2020, arXiv 1908.04319).
    """
    types = np.bincount(grams.counts()[1], minlength=grams.samples)
    return torch.from_numpy(1 - np.maximum(types, 1) / np.maximum(grams.totals(), 1))


def longest_run(tokens: Tensor, lengths: Tensor) -> Tensor:
    """`(N,)` length of the longest stretch of one token; 0 for an empty sample."""
    grid, sizes = tokens.cpu().numpy(), lengths.cpu().numpy()
    longest = np.minimum(sizes, 1)
    run = np.ones(len(grid), dtype=np.int64)
    for t in range(1, grid.shape[1]):
        run = np.where((grid[:, t] == grid[:, t - 1]) & (t < sizes), run + 1, 1)
        longest = np.maximum(longest, np.minimum(run, sizes))
    return torch.from_numpy(longest).double()


def sequence_ids(tokens: Tensor, lengths: Tensor) -> Integers:
    """`(N,)` the same number for the same sequence."""
    grid, sizes = tokens.cpu().numpy(), lengths.cpu().numpy()
    inside = np.arange(grid.shape[1]) < sizes[:, None]
    rows = np.where(inside, grid, -1)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def duplicates(ids: Integers, units: Tensor | None = None) -> Estimate:
    """Share of samples that repeat an earlier one: 1 − types/N, for `ids` `(N,)`."""
    found = distinct(NGrams(ids, np.arange(len(ids)), len(ids)), units)
    assert found is not None
    return replace(found, value=1 - found.value)


def self_bleu(tokens: Tensor, lengths: Tensor) -> Tensor:
    """`(N,)` BLEU-5 of each sample against all others (Zhu et al. 2018, arXiv 1802.01886).

    As sacrebleu's sentence BLEU with `smooth_method="floor"` (0.1 for an order without a match)
    and effective order; 0 for an empty sample.
    """
    everyone = np.ones(len(tokens), dtype=bool)
    return torch.from_numpy(_Corpus.of(tokens, lengths).self_bleu(everyone))


def self_bleu_estimate(
    tokens: Tensor, lengths: Tensor, seed: int = 0, units: Tensor | None = None
) -> Estimate:
    """The mean of `self_bleu`, with the error of a jackknife over 20 random groups of samples.

    Each sample is a hypothesis and a reference of the others: the spread of the scores alone would
    miss the latter. Samples that share a unit `(N,)` are in one group.
    """
    n = len(tokens)
    count = n if units is None else int(units.max()) + 1
    number = min(BLEU_GROUPS, count)
    group = np.random.default_rng(seed).permutation(count) % number
    group = group if units is None else group[units.numpy()]
    corpus = _Corpus.of(tokens, lengths)
    # No group has the last number, so that its turn leaves none out.
    *without, value = (float(corpus.self_bleu(group != k).mean()) for k in range(number + 1))
    spread = np.array(without) - np.mean(without)
    variance = (number - 1) / number * (spread**2).sum()
    size = None if units is None else float(count)
    return Estimate(value, math.sqrt(variance), n, float(number - 1), units=size)


@dataclass(frozen=True)
class _Corpus:
    """N samples as counts of n-grams, counted once for all parts of the corpus.

    Attributes:
        sizes: `(N,)` tokens of each sample.
        counts: for n = 1 to 5 type, owner and count `(K,)` of each type in each sample that has it,
            sorted by type, the highest count first.
    """

    sizes: Integers
    counts: list[tuple[Integers, Integers, Integers]]

    @staticmethod
    def of(tokens: Tensor, lengths: Tensor) -> _Corpus:
        """The corpus of the first `lengths` `(N,)` tokens of `(N, T)`."""
        counts = []
        for grams in ngrams(tokens, lengths, BLEU_ORDER):
            types, owners, numbers = grams.counts()
            order = np.lexsort((-numbers, types))
            counts.append((types[order], owners[order], numbers[order]))
        return _Corpus(lengths.cpu().numpy(), counts)

    def self_bleu(self, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        """BLEU-5 of each of the M samples that are `kept` `(N,)`, against the others of them."""
        sizes = self.sizes[kept]
        log_precision, orders = np.zeros(len(sizes)), np.zeros(len(sizes))
        for n, counts in enumerate(self.counts, 1):
            totals = np.maximum(sizes - n + 1, 0)
            used = totals > 0
            matches = np.maximum(_matches(*counts, kept)[kept], BLEU_FLOOR)
            log_precision[used] += np.log(matches[used] / totals[used])
            orders += used
        score = np.exp(log_precision / np.maximum(orders, 1)) * _brevity(sizes)
        return np.where(orders > 0, score, 0.0)


def _matches(
    types: Integers, owners: Integers, counts: Integers, kept: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """`(N,)` n-grams of each sample, each type clipped at its highest count in another sample.

    Types stand together, their highest counts first; of all samples those that are `kept` count.
    """
    chosen = kept[owners]
    types, owners, counts = types[chosen], owners[chosen], counts[chosen]
    if len(types) == 0:
        return np.zeros(len(kept))
    begins = np.append(True, types[1:] != types[:-1])
    first = np.maximum.accumulate(np.where(begins, np.arange(len(types)), 0))
    following = np.append(np.where(begins[1:], 0, counts[1:]), 0)
    others = np.where(begins, following, counts[first])
    return np.bincount(owners, np.minimum(counts, others), len(kept)).astype(np.float64)


def _brevity(sizes: Integers) -> NDArray[np.float64]:
    """`(N,)` brevity penalty against the other sample of the closest length (ties: shorter)."""
    ordered = np.sort(sizes)
    rank = np.searchsorted(ordered, sizes)
    repeated = np.searchsorted(ordered, sizes, side="right") - rank > 1
    below = np.where(rank > 0, ordered[np.maximum(rank - 1, 0)], -np.inf)
    after = np.searchsorted(ordered, sizes, side="right")
    above = np.where(after < len(ordered), ordered[np.minimum(after, len(ordered) - 1)], np.inf)
    closest = np.where(sizes - below <= above - sizes, below, above)
    closest = np.where(repeated, sizes, closest)
    return np.exp(np.minimum(0.0, 1 - closest / np.maximum(sizes, 1)))
