"""What samplers make, targets and objectives read, and metrics reduce to numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.errors import UserError

# The fields of shape (N, T).
TOKEN_FIELDS = ("tokens", "log_policy", "log_prior", "entropy", "kl", "values")
# The optional fields of shape (N,).
SAMPLE_FIELDS = ("log_density", "log_weight", "replicate")


@dataclass(frozen=True)
class Completions:
    """Token ids of N prompts and their completions: all that a model is given of them.

    Padding is known from the lengths alone; what stands in padded places is arbitrary.

    Attributes:
        prompt_tokens: `(N, P)`, right-aligned (padded on the left); includes the start token.
        prompt_lengths: `(N,)`.
        tokens: `(N, T)` completion tokens, left-aligned, the end-of-sequence token included.
        lengths: `(N,)`, from 1 to T.
    """

    prompt_tokens: Tensor
    prompt_lengths: Tensor
    tokens: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def mask(self) -> Tensor:
        """`(N, T)` bool, True at the tokens of each completion."""
        return token_mask(self.lengths, self.tokens.shape[1])

    def trimmed(self, prompt: int, length: int) -> Completions:
        """The token ids without the columns beyond these many of prompts and completions."""
        prompts, tokens = self.prompt_tokens[:, -prompt:], self.tokens[:, :length]
        return Completions(prompts, self.prompt_lengths, tokens, self.lengths)

    def distinct_inputs(self) -> tuple[Tensor, Tensor]:
        """The first row `(U,)` with each input to a model, and which of them `(N,)` each row has.

        The last token is no input: a model's view of the rows `first` serves, at `[place]`, all.
        Collapsed policies and small spaces repeat themselves a lot.
        """
        inputs = torch.where(token_mask(self.lengths - 1, self.tokens.shape[1]), self.tokens, 0)
        lengths = torch.stack([self.prompt_lengths, self.lengths], 1)
        return distinct_rows(torch.cat([lengths, self.prompt_tokens, inputs], 1))


@dataclass(frozen=True)
class Samples(Completions):
    """N completions with their log-probabilities under the policy and the prior.

    A completion is complete when it ends with the end-of-sequence token or has the maximal length.
    `log_policy` and `log_prior` are 0 in padded places, so that a sum over T is log π(x).

    Attributes:
        contexts: of each of the N, the row of the prompts that it completes.
        ended: `(N,)` bool, whether the completion ends with the end-of-sequence token.
        log_policy: `(N, T)`, nats per token, of the policy that made the samples.
        log_prior: `(N, T)`, nats per token.
        texts: N completions, decoded without special tokens.
        scores: `(N,)` of each scorer by its name; `reward` is the one that is reported. Empty until
            scored.
        entropy: `(N, T)` entropy of the policy's next-token distribution at each sampled prefix,
            nats; None where it was not computed.
        kl: `(N, T)` KL(policy ‖ prior) of the next-token distributions at each sampled prefix,
            nats; None where it was not computed.
        values: `(N, T)` value head's estimate at each sampled prefix, in units of the reward;
            None without a value head.
        log_density: `(N,)` log-density of what drew each, nats per sequence. A decoder whose
            weights are merged and rounded differs from the policy as it is trained by nats in low
            precision. None where there is none in closed form, or the engine does not report it;
            `log_policy` then stands in for draws of the policy.
        log_weight: `(N,)` nats, towards what the draw represents; None where unweighted.
        replicate: `(N,)` integers, the independent repetition of its context (a chain, a particle
            set) that each belongs to: samples of one replicate may depend on each other, and every
            interval counts replicates. None where each sample is its own.
    """

    contexts: list[Context]
    ended: Tensor
    log_policy: Tensor
    log_prior: Tensor
    texts: list[str]
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    entropy: Tensor | None = None
    kl: Tensor | None = None
    values: Tensor | None = None
    log_density: Tensor | None = None
    log_weight: Tensor | None = None
    replicate: Tensor | None = None

    def __post_init__(self) -> None:
        for name in SAMPLE_FIELDS:
            values = getattr(self, name)
            if values is not None and values.shape != (len(self),):
                raise ValueError(f"{name}: {tuple(values.shape)}, not ({len(self)},)")

    @property
    def prompts(self) -> list[str]:
        """N prompt texts, `""` without a prompt."""
        return [context.prompt for context in self.contexts]

    @property
    def context(self) -> Tensor:
        """`(N,)` which row of the prompts each completes, on the CPU.

        Whatever belongs to a context (Z, a baseline, a mean) goes by this number: two rows with
        equal prompts and different columns are two contexts.
        """
        return torch.tensor([context.row for context in self.contexts])

    @property
    def log_policy_sequence(self) -> Tensor:
        """`(N,)` log π(x), nats per sequence, float64."""
        return self.log_policy.double().sum(1)

    @property
    def log_prior_sequence(self) -> Tensor:
        """`(N,)` log π0(x), nats per sequence, float64."""
        return self.log_prior.double().sum(1)

    @property
    def log_drawn(self) -> Tensor:
        """`(N,)` log-density of what drew each, or what stands in for it, float64."""
        return self.log_policy_sequence if self.log_density is None else self.log_density.double()

    def mean(self, values: Tensor) -> float:
        """The mean of `values` `(N,)` over what the samples represent, self-normalised."""
        if self.log_weight is None:
            return values.mean().item()
        return float((self.log_weight.double().softmax(0) * values).sum())

    @property
    def resolution(self) -> Tensor:
        """`(N,)` nats within which log π(x) and log π0(x) are known; see `resolution_of`."""
        return resolution_of(self.log_policy, self.mask) + resolution_of(self.log_prior, self.mask)

    @property
    def reward(self) -> Tensor:
        """`(N,)` the score that is reported; raises KeyError until scored."""
        return self.scores["reward"]

    def with_scores(self, scores: Mapping[str, Tensor]) -> Samples:
        """The same samples with these scores; raises ValueError where one is not `(N,)`."""
        for name, values in scores.items():
            if values.shape != (len(self),):
                raise ValueError(f"score {name}: {tuple(values.shape)}, not ({len(self)},)")
        return replace(self, scores=dict(scores))

    def select(self, indices: Tensor) -> Samples:
        """The samples at `indices` `(n,)`, in that order."""
        chosen = indices.tolist()

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[indices]
            if isinstance(value, Mapping):
                return {name: values[indices] for name, values in value.items()}
            return [value[i] for i in chosen] if isinstance(value, list) else value

        return Samples(**{f.name: pick(getattr(self, f.name)) for f in fields(self)})

    def compact(self) -> Samples:
        """The same samples without columns that are padding in every row."""
        prompt = int(self.prompt_lengths.max())
        length = int(self.lengths.max())
        trimmed = {name: getattr(self, name) for name in TOKEN_FIELDS}
        trimmed = {n: None if v is None else v[:, :length] for n, v in trimmed.items()}
        return replace(self, prompt_tokens=self.prompt_tokens[:, -prompt:], **trimmed)

    @staticmethod
    def concatenate(parts: Sequence[Samples]) -> Samples:
        """All samples of `parts` in order, padded to the longest prompt and completion.

        Replicates of different parts stay apart. Parts without weights get equal ones where others
        have them. Raises UserError for scores of different names.
        """
        prompt = max(part.prompt_tokens.shape[1] for part in parts)
        length = max(part.tokens.shape[1] for part in parts)

        def pad(value: Tensor, left: int, right: int) -> Tensor:
            return torch.nn.functional.pad(value, (left, right))

        def join(name: str) -> Any:
            completed = name in {"log_weight", "replicate"}
            values: list[Any] = (
                _completed(name, parts) if completed else [getattr(part, name) for part in parts]
            )
            if any(value is None for value in values):
                return None
            if isinstance(values[0], list):
                return [item for value in values for item in value]
            if isinstance(values[0], Mapping):
                odd = next((v for v in values if v.keys() != values[0].keys()), None)
                if odd is not None:
                    raise UserError(
                        f"reward: gave the scores {', '.join(values[0])} of some completions and "
                        f"{', '.join(odd)} of others; return the same names at every call"
                    )
                return {key: torch.cat([value[key] for value in values]) for key in values[0]}
            if name == "prompt_tokens":
                values = [pad(value, prompt - value.shape[1], 0) for value in values]
            elif name in TOKEN_FIELDS:
                values = [pad(value, 0, length - value.shape[1]) for value in values]
            return torch.cat(values)

        return Samples(**{f.name: join(f.name) for f in fields(Samples)})


def _completed(name: str, parts: Sequence[Samples]) -> list[Any]:
    """`log_weight` or `replicate` of each part, with its default where only others have it."""
    if all(getattr(part, name) is None for part in parts):
        return [None] * len(parts)
    if name == "log_weight":
        blank = (torch.zeros(len(p), dtype=torch.double, device=p.lengths.device) for p in parts)
        return [
            zero if p.log_weight is None else p.log_weight
            for p, zero in zip(parts, blank, strict=True)
        ]
    values, first = [], 0
    for part in parts:
        own = part.replicate
        if own is None:
            own = torch.arange(len(part), device=part.lengths.device)
        number = own.unique(return_inverse=True)[1] + first
        first = int(number.max()) + 1
        values.append(number)
    return values


@dataclass(frozen=True)
class Cost:
    """What a draw took: tokens through a model, and completions that rewards scored."""

    tokens: int = 0
    rewards: int = 0


@dataclass(frozen=True)
class Draw:
    """Scored samples, and what they are samples of.

    Attributes:
        samples: the samples; their weights are towards what they represent.
        represents: the policy, the target, or whatever the sampler itself makes.
        info: the sampler's own numbers, by name.
        cost: what it took.
    """

    samples: Samples
    represents: Literal["policy", "target", "sampler"] = "policy"
    info: Mapping[str, float] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)


# Roundings that a token's log-probability collects on its way through a model, in units of eps.
ROUNDINGS = 16.0


def resolution_of(log_probs: Tensor, mask: Tensor) -> Tensor:
    """`(N,)` nats, float64, by which rounding may move the sum of `log_probs` `(N, T)`.

    A log-probability is a difference of logits of its own size and of order 1, each rounded to
    `eps` of the type it is computed in, several times. Two passes over the same weights, in
    different batches, differ by less.

    Args:
        mask: `(N, T)` bool, True at the tokens.
    """
    size = torch.where(mask, 1.0 + log_probs.double().abs(), 0.0).sum(1)
    return ROUNDINGS * torch.finfo(log_probs.dtype).eps * size


def token_mask(lengths: Tensor, width: int) -> Tensor:
    """`(N, width)` bool, True in the first `lengths` `(N,)` places of each row."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def distinct_rows(table: Tensor) -> tuple[Tensor, Tensor]:
    """The first of each set of equal rows of `table` `(N, C)`, `(U,)`, and the set of each, `(N,)`.

    `table[first][place]` is `table`. Where no two rows are equal, both are 0 to N − 1.
    """
    rows = torch.arange(len(table), device=table.device)
    # Sorting one number a row is many times faster than sorting rows.
    factors = torch.randint(2**62, table.shape[1:], generator=torch.Generator().manual_seed(0))
    keys = (table * (2 * factors.to(table.device) + 1)).sum(1)
    first, place = _first_of_equals(rows, *keys.unique(return_inverse=True))
    if not torch.equal(table[first][place], table):
        first, place = _first_of_equals(rows, *table.unique(dim=0, return_inverse=True))
    return (rows, rows) if len(first) == len(rows) else (first, place)


def _first_of_equals(rows: Tensor, values: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    first = torch.empty_like(rows[: len(values)])
    return first.scatter_reduce(0, place, rows, "amin", include_self=False), place
