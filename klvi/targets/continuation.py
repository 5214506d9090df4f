"""What comes before a given continuation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from klvi.engine.base import Prefixes
from klvi.errors import UserError
from klvi.metrics.intervals import Estimate, average, estimate, interval
from klvi.metrics.measurement import Measurement, Metric, Unavailable
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior
from klvi.policy.text import encode_after, encode_text
from klvi.randomness import Randomness
from klvi.rewards.base import Reward
from klvi.rewards.python import as_reward
from klvi.samples import Completions, Samples
from klvi.schema import check_fields
from klvi.targets.base import Target, checked_beta
from klvi.targets.schema import ContinuationTarget
from klvi.terminal import tell

CONFIDENCE = 0.95
UPPER, LOWER = "target/log_z_upper", "target/log_z_lower"
FEWEST = 8
LETTER = "a"


@dataclass(frozen=True)
class Continuation(Target):
    """p ∝ π0(x)·π0(s|x), the prior's texts that s follows: infilling.

    Zhao et al. 2024 (arXiv 2404.17546). x has exactly `max_new_tokens` tokens: log potential log
    π0(s|x), nats, and −inf where x has ended. Z = π0(no end in x, then s). s are tokens, not a
    text: those of `text` as it reads after a letter, or, where it is None, of `length` tokens (or
    up to the end) that the prior draws after one of its own samples x*, for each prompt. The
    reward and `beta` do not enter p: the reward is measured, and `beta` scales losses.

    (x*, s) is a draw of the joint distribution, so that x* is an exact sample of p given s, and
    bounds log Z from above (Grosse et al. 2015, arXiv 1511.02543): E_p[log π0(s|x)] = log Z +
    KL(p‖π0), of which log π0(s|x*) is a draw, and by Markov's inequality log Z ≤ log π0(s|x*) +
    log 20 in 95% of draws. A given s comes without such a sample.
    """

    name: ClassVar[str] = "continuation"
    reward: Reward
    prior: Prior
    text: str | None = " and then"
    length: int = 4
    fit_samples: int = 1024
    beta: float = 0.1
    drawn: Mapping[int, Sequence[int]] = field(default_factory=dict)
    bounds: Mapping[str, Metric] = field(default_factory=dict)
    _given: Sequence[int] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_beta(self.beta))
        check_fields(ContinuationTarget, self)
        object.__setattr__(self, "reward", as_reward(self.reward))
        given = None if self.text is None else following_tokens(self.prior, self.text)
        object.__setattr__(self, "_given", given)

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """The reward, which is only measured."""
        return {"reward": self.reward}

    def log_potential(self, samples: Samples) -> Tensor:
        """log π0(s|x), −inf where x has ended: `(N,)`, nats.

        Raises UserError where x and s do not fit the model, and for a prompt without an s.
        """
        device = samples.lengths.device
        potential = torch.full((len(samples),), -torch.inf, dtype=torch.float64, device=device)
        going = (~samples.ended).nonzero()[:, 0]
        if len(going):
            potential[going] = self._log_following(samples.select(going)).to(device)
        return potential

    def _log_following(self, samples: Samples) -> Tensor:
        """`(n,)` log π0(s|x) of samples that have not ended, float64."""
        rows = [self._tokens_after(samples, row) for row in samples.context.tolist()]
        lengths = torch.tensor([len(row) for row in rows])
        width = int(lengths.max())
        tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        whole = _prefixes(samples, self.prior)
        self.prior.check_length(whole.tokens.shape[1], width)
        device = self.prior.device
        given = Completions(whole.tokens, whole.lengths, tokens.to(device), lengths.to(device))
        return Policy(self.prior).log_probs(given).double().sum(1)

    def _tokens_after(self, samples: Samples, row: int) -> Sequence[int]:
        if self._given is None and row not in self.drawn:
            title = next(context.title for context in samples.contexts if context.row == row)
            raise UserError(
                f"target={self.name}: {title} has no continuation: raise target.fit_samples="
                f"{self.fit_samples} until each prompt has some of them"
            )
        return self.drawn[row] if self._given is None else self._given

    def samples_to_fit(self, update: int, updates: int = 1) -> int:
        """`fit_samples` of the prior before update 0, in all, where s is drawn."""
        return self.fit_samples if update == 0 and self.text is None else 0

    def fitted(self, samples: Samples) -> Continuation:
        """With an s for each prompt, after the first of its samples that has not ended.

        Raises UserError where all of a prompt's samples have.
        """
        if self.text is not None:
            return self
        first = {}
        for row in samples.context.unique().tolist():
            going = ((samples.context == row) & ~samples.ended.cpu()).nonzero()[:, 0]
            if not len(going):
                title = next(c.title for c in samples.contexts if c.row == row)
                raise UserError(
                    f"target={self.name}: the prior's samples of {title} all end before "
                    "max_new_tokens, and nothing follows an end: choose fewer max_new_tokens, or "
                    "raise target.fit_samples"
                )
            first[row] = int(going[0])
        exact = samples.select(torch.tensor(list(first.values()), device=samples.lengths.device))
        drawn = dict(zip(first, self._draw(exact, samples), strict=True))
        found = replace(self, drawn=drawn)
        return replace(found, bounds=found._bounds(samples, exact, first))

    def _draw(self, exact: Samples, samples: Samples) -> list[list[int]]:
        """An s after each of `exact`; the seed is all that was drawn, as another run's differs."""
        digest = hashlib.sha256(samples.tokens.cpu().numpy().tobytes()).digest()
        randomness = Randomness("continuation", (int.from_bytes(digest[:8], "big"),), 0)
        prefixes, policy = _prefixes(exact, self.prior), Policy(self.prior)
        self.prior.check_length(prefixes.tokens.shape[1], self.length)
        uniforms = randomness.uniforms(torch.arange(len(exact)), self.length)
        with torch.no_grad():
            decoded = policy.engine.complete(policy.view(policy.model), prefixes, uniforms)
        pairs = zip(decoded.tokens.tolist(), decoded.lengths.tolist(), strict=True)
        return [tokens[:length] for tokens, length in pairs]

    def _bounds(
        self, samples: Samples, exact: Samples, first: Mapping[int, int]
    ) -> dict[str, Metric]:
        """Of log Z, the mean over prompts; the lower one from samples drawn after x*."""
        upper = float(self.log_potential(exact).mean())
        # Z is a probability.
        highest = min(upper - math.log(1 - CONFIDENCE) / len(exact), 0.0)
        bounds: dict[str, Metric] = {UPPER: Measurement(upper, upper, highest, len(exact))}
        potential, place = self.log_potential(samples).cpu(), torch.arange(len(samples))
        parts = [
            _lower(potential[(samples.context == row) & (place > since)])
            for row, since in first.items()
        ]
        known = [part for part in parts if part is not None]
        bounds[LOWER] = (
            interval(average(known, [1 / len(known)] * len(known), 1.0), CONFIDENCE)
            if len(known) == len(parts)
            else Unavailable("too few samples of a prompt; raise target.fit_samples")
        )
        return bounds

    def report(self) -> Mapping[str, Metric]:
        """`target/log_z_upper` and `target/log_z_lower`, nats, where s was drawn."""
        if self.text is None:
            return self.bounds
        why = (
            "no exact sample comes with a continuation that is given; target.text=null draws one "
            "from the prior with such a sample"
        )
        return {UPPER: Unavailable(why)}

    def state(self) -> dict[str, Any]:
        """The tokens of each prompt's s, by its row, as read by people, and the bounds."""
        if not self.drawn:
            return {}
        return {
            "tokens": {str(row): list(tokens) for row, tokens in self.drawn.items()},
            "texts": {str(r): self.prior.tokenizer.decode(t) for r, t in self.drawn.items()},
            "bounds": {name: metric.to_json() for name, metric in self.bounds.items()},
        }

    def with_state(self, state: dict[str, Any]) -> Continuation:
        """With the continuations of another; raises ValueError where they are none."""
        drawn = {int(row): list(map(int, ids)) for row, ids in state.get("tokens", {}).items()}
        bounds: dict[str, Metric] = {
            name: Unavailable(found["reason"]) if "reason" in found else Measurement(**found)
            for name, found in state.get("bounds", {}).items()
        }
        return replace(self, drawn=drawn, bounds=bounds)


def _prefixes(samples: Samples, prior: Prior) -> Prefixes:
    """Prompts and whole completions of samples that have not ended, on the prior's device."""
    tokens = torch.cat([samples.prompt_tokens, samples.tokens], 1)
    lengths = samples.prompt_lengths + samples.lengths
    return Prefixes(tokens.to(prior.device), lengths.to(prior.device))


def _lower(potential: Tensor) -> Estimate | None:
    """log P(going on) + E[φ | going on] ≤ log Z, nats, of potentials `(n,)`; None for too few.

    The evidence lower bound of the prior, conditioned on what the target does not exclude.
    """
    going = potential > -torch.inf
    count = int(going.sum())
    if count < FEWEST:
        return None
    mean, share = float(potential[going].mean()), count / len(potential)
    influence = torch.where(going, potential - mean + 1, 0.0) / share - 1
    return estimate(math.log(share) + mean, influence)


def following_tokens(prior: Prior, text: str) -> list[int]:
    """The tokens of a text as it reads after another, or alone where its start merges with that.

    Raises UserError where the tokenizer has no tokens for a part of it.
    """
    try:
        tokens = encode_after(prior.tokenizer, prior.name, LETTER, text)
    except UserError as error:
        said = str(error).partition(": ")[2]
        raise UserError(f"target.text={text!r}: {said}; give another") from error
    if _joins(prior, text, len(tokens)):
        tell(
            f"warning: target.text={text!r}: model {prior.name} joins its beginning with what "
            "stands before; its tokens are those that it has alone"
        )
    return tokens


def _joins(prior: Prior, text: str, count: int) -> bool:
    """Whether a text of `count` tokens has fewer or more where it follows a letter."""
    try:
        before, whole = (
            len(encode_text(prior.tokenizer, prior.name, part)) for part in (LETTER, LETTER + text)
        )
    except UserError:  # of a tokenizer that writes no such text
        return False
    return whole != before + count
