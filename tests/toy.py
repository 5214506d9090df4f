"""A random autoregressive distribution over all sequences of a few letters, as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from klvi.contexts import contexts_of
from klvi.metrics.enumeration import Enumeration, enumerate_sequences
from klvi.metrics.exact import exact_metrics
from klvi.metrics.measurement import Unavailable
from klvi.metrics.tilting import tilt_within_kl
from klvi.samples import Samples

LETTERS, LENGTH = 4, 5
END = LETTERS


@dataclass(frozen=True)
class Toy:
    """A language model as a table: `logits[k]` `(LETTERS^k, LETTERS + 1)` after k letters."""

    logits: list[Tensor]

    def next_token(self) -> list[Tensor]:
        return [table.log_softmax(-1) for table in self.logits]


def sequences() -> Enumeration:
    return enumerate_sequences(range(LETTERS), END, LENGTH)


def prefix_index(tokens: Tensor, step: int) -> Tensor:
    """Row of the table for the first `step` tokens of each sequence."""
    index = torch.zeros(len(tokens), dtype=torch.long)
    for t in range(step):
        index = index * LETTERS + tokens[:, t].clamp(max=LETTERS - 1)
    return index


def random_toy(seed: int, scale: float = 1.5) -> Toy:
    generator = torch.Generator().manual_seed(seed)
    shape = [(LETTERS**k, LETTERS + 1) for k in range(LENGTH)]
    return Toy([scale * torch.randn(s, generator=generator, dtype=torch.float64) for s in shape])


def token_log_probs(toy: Toy, space: Enumeration) -> Tensor:
    """`(S, T)` log-probability of each token, 0 beyond the length."""
    tables = toy.next_token()
    columns = [tables[t][prefix_index(space.tokens, t), space.tokens[:, t]] for t in range(LENGTH)]
    inside = torch.arange(LENGTH) < space.lengths[:, None]
    return torch.where(inside, torch.stack(columns, 1), 0.0)


def per_prefix(policy: Toy, prior: Toy, space: Enumeration) -> tuple[Tensor, Tensor]:
    """`(S, T)` entropy and KL to the prior of the next token at each prefix."""
    inside = torch.arange(LENGTH) < space.lengths[:, None]
    entropy, kl = [], []
    for t, (log_p, log_q) in enumerate(zip(policy.next_token(), prior.next_token(), strict=True)):
        rows = prefix_index(space.tokens, t)
        entropy.append(-(log_p.exp() * log_p).sum(-1)[rows])
        kl.append((log_p.exp() * (log_p - log_q)).sum(-1)[rows])
    return (
        torch.where(inside, torch.stack(entropy, 1), 0.0),
        torch.where(inside, torch.stack(kl, 1), 0.0),
    )


def condition(prior: Toy, log_potential: Tensor, space: Enumeration) -> Toy:
    """The autoregressive form of p ∝ prior·exp(log_potential), by sums over trees of prefixes."""
    joint = token_log_probs(prior, space).sum(1) + log_potential
    words = joint[~space.ended]
    tables = [torch.empty(0)] * LENGTH
    for k in reversed(range(LENGTH)):
        stops = joint[space.ended & (space.lengths == k + 1)]
        tables[k] = torch.cat([words.reshape(-1, LETTERS), stops[:, None]], 1)
        words = torch.logsumexp(tables[k], 1)
    return Toy(tables)


def between(start: Toy, end: Toy, share: float) -> Toy:
    """Next-token logits interpolated from `start` (0) to `end` (1)."""
    pairs = zip(start.next_token(), end.next_token(), strict=True)
    return Toy([(1 - share) * a + share * b for a, b in pairs])


def graded_reward(space: Enumeration) -> Tensor:
    """A reward `(S,)` that is neither constant nor binary."""
    noise = torch.randn(len(space), generator=torch.Generator().manual_seed(5)).double()
    first, second = ((space.tokens == letter).sum(1) for letter in (0, 1))
    return 0.5 * first - 0.3 * second + 0.2 * noise


def graded_gold(space: Enumeration) -> Tensor:
    """A score `(S,)` that goes along with `graded_reward` in part."""
    third = (space.tokens == 2).sum(1)
    noise = torch.randn(len(space), generator=torch.Generator().manual_seed(6)).double()
    return 0.5 * graded_reward(space) + 0.4 * third + 0.1 * noise


@dataclass(frozen=True)
class Problem:
    """Everything about every sequence under a policy, a prior, a reward and a target.

    `log_policy`, `log_prior`, `entropy` and `kl` are `(S, T)`, `reward`, `log_target` and `gold`
    `(S,)`.
    """

    space: Enumeration
    log_policy: Tensor
    log_prior: Tensor
    entropy: Tensor
    kl: Tensor
    reward: Tensor
    log_target: Tensor
    gold: Tensor | None = None

    @property
    def scores(self) -> dict[str, Tensor]:
        return {"reward": self.reward} | ({} if self.gold is None else {"gold": self.gold})

    def draw(self, log_probability: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """`(n,)` rows of sequences drawn from `log_probability` `(S, T)`."""
        probability = log_probability.sum(1).exp()
        return torch.multinomial(probability, n, replacement=True, generator=generator)

    def samples(self, rows: Tensor) -> Samples:
        n = len(rows)
        return Samples(
            contexts=contexts_of([""] * n),
            prompt_tokens=torch.zeros(n, 1, dtype=torch.long),
            prompt_lengths=torch.ones(n, dtype=torch.long),
            tokens=self.space.tokens[rows],
            lengths=self.space.lengths[rows],
            ended=self.space.ended[rows],
            log_policy=self.log_policy[rows],
            log_prior=self.log_prior[rows],
            texts=[""] * n,
            scores={name: values[rows] for name, values in self.scores.items()},
            entropy=self.entropy[rows],
            kl=self.kl[rows],
        )

    def exact(self, beta: float, n: int = 500, n_prior: int = 0) -> dict[str, float | Unavailable]:
        return exact_metrics(
            self.space,
            self.log_policy.sum(1),
            self.log_prior.sum(1),
            self.log_target,
            self.scores,
            beta=beta,
            n=n,
            n_prior=n_prior,
            tilt=self.tilt(),
        )

    def tilt(self) -> float:
        """Of gold's own posterior at the target's KL."""
        if self.gold is None:
            return 0.0
        log_prior, log_density = self.log_prior.sum(1), self.log_target.log_softmax(0)
        log_ratio = torch.where(log_density > -torch.inf, log_density - log_prior, 0.0)
        kl = float(log_density.exp() @ log_ratio)
        return tilt_within_kl(self.gold, log_prior, torch.zeros(len(log_prior)), kl)


def problem(
    policy: Toy, prior: Toy, reward: Tensor, log_potential: Tensor, gold: Tensor | None = None
) -> Problem:
    space = sequences()
    log_prior = token_log_probs(prior, space)
    entropy, kl = per_prefix(policy, prior, space)
    return Problem(
        space=space,
        log_policy=token_log_probs(policy, space),
        log_prior=log_prior,
        entropy=entropy,
        kl=kl,
        reward=reward,
        log_target=log_prior.sum(1) + log_potential,
        gold=gold,
    )
