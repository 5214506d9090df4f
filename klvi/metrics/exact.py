"""Exact values of the metrics, where all sequences can be listed; sums in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from klvi.errors import UserError
from klvi.metrics import text
from klvi.metrics.measurement import Unavailable

NORMALISATION_TOLERANCE = 1e-3


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


def exact_metrics(
    sequences: Enumeration,
    log_policy: Tensor,
    log_prior: Tensor,
    log_target: Tensor,
    reward: Tensor,
    *,
    beta: float,
    n: int,
    n_prior: int = 0,
) -> dict[str, float | Unavailable]:
    """The value that each `eval/…` metric estimates, and the target's own.

    `eval/ess`, `eval/duplicates` and `eval/distinct_*` depend on the number of samples: they are
    given for `n` of the policy and `n_prior` of the prior. distinct-n is the ratio of the expected
    number of types to that of n-grams.

    Args:
        sequences: all S sequences.
        log_policy: `(S,)` log π(x), nats per sequence.
        log_prior: `(S,)` log π0(x).
        log_target: `(S,)` log P(x), unnormalised; -inf where the target excludes x.
        reward: `(S,)`.
        beta: temperature, for `eval/penalised_reward_std`.
        n: number of samples of the policy.
        n_prior: number of samples of the prior.

    Raises:
        ValueError: the policy's or the prior's probabilities do not sum to 1.
    """
    log_policy, log_prior = log_policy.cpu().double(), log_prior.cpu().double()
    log_target, reward = log_target.cpu().double(), reward.cpu().double()
    for name, values in {"policy": log_policy, "prior": log_prior}.items():
        total = float(values.exp().sum())
        if abs(total - 1) > NORMALISATION_TOLERANCE:
            raise ValueError(f"the {name}'s probabilities sum to {total:.6g} over all sequences")
    policy = log_policy.exp()
    found = {
        **_policy_values(sequences, policy, log_policy, log_prior, reward),
        **_target_values(log_policy, log_target, beta),
        "eval/ess": _expected_ess(log_policy, log_prior, log_target, n, n_prior),
        **_target_itself(log_prior, log_target, reward),
        **_text_values(sequences, policy, n),
    }
    return {name: _number(value, beta) for name, value in found.items()}


def _number(value: float | Unavailable, beta: float) -> float | Unavailable:
    if isinstance(value, Unavailable) or math.isfinite(value):
        return value
    return Unavailable(f"beyond the range of 64-bit numbers at beta={beta:g} and these rewards")


def _product(probability: Tensor, values: Tensor) -> Tensor:
    """`probability·values`, with 0·∞ = 0."""
    return torch.where(probability > 0, probability * values, 0.0)


def _policy_values(
    sequences: Enumeration, policy: Tensor, log_policy: Tensor, log_prior: Tensor, reward: Tensor
) -> dict[str, float | Unavailable]:
    length = float(policy @ sequences.lengths.cpu().double())
    entropy = -float(_product(policy, log_policy).sum())
    return {
        "eval/reward": float(policy @ reward),
        "eval/kl_prior": float(_product(policy, log_policy - log_prior).sum()),
        "eval/entropy": entropy,
        "eval/entropy_token": entropy / length,
        "eval/perplexity_prior": math.exp(-float(_product(policy, log_prior).sum()) / length),
        "policy/largest_probability": float(policy.max()),
    }


def _target_values(
    log_policy: Tensor, log_target: Tensor, beta: float
) -> dict[str, float | Unavailable]:
    policy = log_policy.exp()
    log_z = float(torch.logsumexp(log_target, 0))
    target = (log_target - log_z).exp()
    forward = float(_product(target, log_target - log_z - log_policy).sum())
    values: dict[str, float | Unavailable] = {
        "eval/kl_target_forward": forward,
        "eval/tv_target": 0.5 * float((policy - target).abs().sum()),
        "eval/log_z": log_z,
        "eval/log_z_upper": log_z + forward,
    }
    outside = float(policy[target == 0].sum())
    names = ("eval/kl_target_reverse", "eval/log_z_lower", "eval/penalised_reward_std")
    if outside > 0:
        reason = f"infinite: probability {outside:.3g} lies outside of the target's support"
        return values | dict.fromkeys(names, Unavailable(reason))
    reverse = float(_product(policy, log_policy - log_target).sum()) + log_z
    penalised = beta * (log_target - log_policy)
    variance = float(
        _product(policy, (penalised - float(_product(policy, penalised).sum())) ** 2).sum()
    )
    found = (reverse, log_z - reverse, math.sqrt(variance))
    return values | dict(zip(names, found, strict=True))


def _expected_ess(
    log_policy: Tensor, log_prior: Tensor, log_target: Tensor, n: int, n_prior: int
) -> float:
    """`N·Z²/E_q[w²]` for the mixture of `n` samples of the policy and `n_prior` of the prior."""
    total = n + n_prior
    log_proposal = (
        torch.logaddexp(log_policy + math.log(n / total), log_prior + math.log(n_prior / total))
        if n_prior
        else log_policy
    )
    log_density = log_target - torch.logsumexp(log_target, 0)
    # A sequence without weight may have no probability either.
    squares = torch.where(torch.isneginf(log_target), -math.inf, 2 * log_density - log_proposal)
    return total * math.exp(-float(torch.logsumexp(squares, 0)))


def _target_itself(
    log_prior: Tensor, log_target: Tensor, reward: Tensor
) -> dict[str, float | Unavailable]:
    log_density = log_target - torch.logsumexp(log_target, 0)
    target = log_density.exp()
    return {
        "target/entropy": -float(_product(target, log_density).sum()),
        "target/reward": float(target @ reward),
        "target/kl_prior": float(_product(target, log_density - log_prior).sum()),
    }


def _text_values(sequences: Enumeration, policy: Tensor, n: int) -> dict[str, float | Unavailable]:
    content = sequences.lengths - sequences.ended.long()
    values: dict[str, float | Unavailable] = {}
    for order, grams in zip(
        text.ORDERS, text.ngrams(sequences.tokens, content, max(text.ORDERS)), strict=True
    ):
        if order > 1:
            values[f"eval/repetition_{order}"] = float(policy @ text.repetition(grams))
        if len(grams.ids) == 0:
            values[f"eval/distinct_{order}"] = Unavailable(f"no sequence has {order} tokens")
            continue
        types, owners, _ = (torch.from_numpy(part) for part in grams.counts())
        presence = torch.bincount(types, weights=policy[owners])
        total = n * float(policy @ torch.from_numpy(grams.totals()).double())
        values[f"eval/distinct_{order}"] = _expected_types(presence, n) / total
    return values | {
        "eval/self_bleu_5": Unavailable("it has no closed form at a finite number of samples"),
        "eval/duplicates": 1 - _expected_types(policy, n) / n,
        "eval/longest_run": float(policy @ text.longest_run(sequences.tokens, content)),
        "eval/length": float(policy @ sequences.lengths.double()),
        "eval/eos": float(policy @ sequences.ended.double()),
    }


def _expected_types(presence: Tensor, n: int) -> float:
    """Expected number of types in `n` samples, each of which has type g with `presence[g]`."""
    return float(-torch.expm1(n * torch.log1p(-presence.clamp(max=1.0))).sum())
