"""The one training loop: roll out, score, loss, update, log, evaluate, checkpoint."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from klvi import interruption
from klvi.config.schema import TrainConfig
from klvi.contexts import Context
from klvi.errors import UserError
from klvi.models.memory import out_of_memory
from klvi.models.policy import Policy
from klvi.models.scoring import token_entropy
from klvi.objectives.base import Objective, Prediction, Signals, Statistics, Totals
from klvi.rewards.base import Reward
from klvi.rewards.scoring import score
from klvi.samplers.ancestral import Pass, draw, log_policy_of, passes, rescore
from klvi.samples import Samples
from klvi.targets.base import Target
from klvi.training.optimisation import Optimisation
from klvi.training.prompt_stream import PromptStream
from klvi.training.randomness import seeded_generator

Record = dict[str, Any]
# Samples on which a policy is checked before it is kept.
PROBED = 4
T = TypeVar("T")


class DivergenceError(UserError):
    """The policy is spoiled: what it has become must not be kept."""


@dataclass(frozen=True)
class Part:
    """What one forward pass learns from.

    Attributes:
        batch: the pass.
        samples: the n sequences that it covers.
        signals: the objective's, of `samples`.
    """

    batch: Pass
    samples: Samples
    signals: Signals


@dataclass
class Loop:
    """Trains a policy on an objective; what happens beside an update is left to hooks.

    Attributes:
        on_complete: called when an update is complete, before anything is done with its record.
        on_update: called after each update with its record.
        update: the number of updates done.
        seconds: wall time so far, across resumes.
        record: that of the last update, until all hooks are through with it.
    """

    config: TrainConfig
    policy: Policy
    objective: Objective
    target: Target
    reward: Reward
    contexts: PromptStream
    optimisation: Optimisation
    on_update: list[Callable[[Record], None]] = field(default_factory=list)
    on_complete: list[Callable[[], None]] = field(default_factory=list)
    update: int = 0
    seconds: float = 0.0
    record: Record | None = None
    proposal: list[Tensor] | None = None

    def __post_init__(self) -> None:
        self._timings: dict[str, float] = defaultdict(float)
        self._probe: Samples | None = None
        if self.objective.adaptive_proposal and self.proposal is None:
            self.proposal = self.policy.snapshot()

    def run(self) -> None:
        """Do the updates that are left.

        Raises Interruption between two updates where a signal has come that user code swallowed.
        """
        while self.update < self.config.updates:
            interruption.check()
            record = self.step()
            for hook in self.on_update:
                hook(record)

    def step(self) -> Record:
        """One update; returns its record."""
        started = time.perf_counter()
        self._timings.clear()
        generator = self._generator(self.update + 1)
        samples = self.score(self.roll_out(generator))
        self._probe = samples.select(torch.arange(min(PROBED, len(samples))))
        share = self.evidence_share(self.update)
        if share != self.evidence_share(self.update - 1):
            self.objective.retarget()
        log_target = self.target.log_score(samples, share)
        weighed = samples.with_reward(share * samples.reward)
        with self.timed("update"), out_of_memory("updating"):
            signals, statistics = self.objective.signals(weighed, log_target)
            self._renew_proposal(samples, log_target)
            if signals:
                statistics |= self.learn(samples, signals, generator)
            else:
                self.optimisation.step()
        self._check("the weights are", *(p.detach() for p in self.policy.parameters()))
        self.update += 1
        elapsed = time.perf_counter() - started
        self.seconds += elapsed
        record = self._record(samples, statistics, elapsed, share)
        self.optimisation.advance()
        self.record = dict(record)
        for hook in self.on_complete:
            hook()
        return record

    def evidence_share(self, update: int) -> float:
        """The weight of the reward after `update` updates, 1 when annealing is over.

        Where the reward has several far modes, a policy that is sent to the target at once settles
        in the first it finds; one that follows p ∝ π0·evidence^share keeps the others alive.
        """
        steps = self.config.anneal * self.config.updates
        return 1.0 if update + 1 >= steps else (update + 1) / steps

    def roll_out(self, generator: torch.Generator) -> Samples:
        """The next contexts, completed by the policy, or by the proposal where there is one.

        Last come the completions that the objective wants of the prior, of contexts spread evenly
        over the batch.
        """
        contexts = self.contexts.batch(self.update, self.config.batch_size)
        others = self.objective.prior_rows(len(contexts))
        if not others:
            return self._complete(contexts, self.proposal, generator)
        for_policy, for_prior = dealt(contexts, others)
        samples = self._complete(for_policy, self.proposal, generator)
        from_prior = self._complete(for_prior, self.policy.zero_adapter(), generator)
        budget = self.config.rollout.micro_batch_tokens
        with self.timed("prior"), self.policy.with_adapter(self.proposal):
            log_policy = log_policy_of(self.policy, from_prior, budget)
        self._check("the log-probabilities are", log_policy)
        return Samples.concatenate([samples, replace(from_prior, log_policy=log_policy)])

    def _complete(
        self, contexts: list[Context], adapter: list[Tensor] | None, generator: torch.Generator
    ) -> Samples:
        """Completions of the policy with `adapter` (None: as it is), scored by it and the prior."""
        settings = self.config.rollout
        with self.policy.with_adapter(adapter):
            with self.timed("rollout"):
                samples = draw(
                    self.policy,
                    contexts,
                    max_new_tokens=settings.max_new_tokens,
                    generator=generator,
                    batch_size=settings.batch_size,
                )
            with self.timed("prior"):
                samples = rescore(self.policy, samples, budget=settings.micro_batch_tokens)
        self._check("the log-probabilities are", samples.log_policy, samples.values)
        return samples

    def score(self, samples: Samples) -> Samples:
        """The samples with their rewards."""
        with self.timed("reward"):
            reward = score(self.reward, samples.texts, samples.contexts, update=self.update + 1)
        return samples.with_reward(reward.to(samples.lengths.device))

    def learn(self, samples: Samples, signals: Signals, generator: torch.Generator) -> Statistics:
        """All passes over one rollout; returns the mean of each statistic over minibatches."""
        collected: dict[str, list[float]] = defaultdict(list)
        whole = self.objective.minibatches == 1
        parts = list(self.parts(samples, signals)) if whole else []
        for epoch in range(self.objective.epochs):
            for rows in self._minibatches(len(samples), generator):
                if not whole:
                    parts = list(self.parts(samples.select(rows), _select(signals, rows)))
                statistics = self.learn_minibatch(parts, entropy=epoch == 0)
                for name, value in statistics.items():
                    collected[name].append(value)
                if self.objective.stop_early(statistics):
                    return _averages(collected)
        return _averages(collected)

    def learn_minibatch(self, parts: Sequence[Part], *, entropy: bool) -> Statistics:
        """One optimizer step; gradients are summed over the parts of the minibatch."""
        lengths = [part.samples.lengths for part in parts]
        totals = Totals(sum(map(len, lengths)), sum(int(each.sum()) for each in lengths))
        sums: dict[str, float] = defaultdict(float)
        for part in parts:
            prediction = self.predict(part, entropy=entropy)
            loss, statistics = self.objective.loss(prediction, part.samples, part.signals, totals)
            self.optimisation.backward(loss)
            if prediction.entropy is not None:
                mean_entropy = prediction.entropy.sum().item() / totals.tokens
                statistics["policy/entropy_avg"] = mean_entropy
            for name, value in statistics.items():
                sums[name] += value
        norm = self.optimisation.step()
        self._check("the gradient is", torch.tensor(norm))
        return {**sums, "optim/grad_norm": norm}

    def parts(self, samples: Samples, signals: Signals) -> Iterator[Part]:
        """A minibatch cut into what one forward pass takes, `optim.micro_batch_tokens`."""
        budget = self.config.optim.micro_batch_tokens
        for batch in passes(self.policy.model, samples, budget, self.policy.batching):
            chosen = samples.select(batch.rows).compact()
            yield Part(batch, chosen, _select(signals, batch.rows, chosen.tokens.shape[1]))

    def predict(self, part: Part, *, entropy: bool) -> Prediction:
        """One forward pass for the policy's log-probabilities and, with a value head, values."""
        with self.policy.recomputing(self.config.optim.gradient_checkpointing):
            view = part.batch.view(self.policy.model)
        head = self.policy.value_head
        return Prediction(
            log_policy=view.log_probs(part.samples.tokens),
            values=None if head is None else view.per_token(head(view.hidden)),
            mask=view.mask,
            entropy=view.per_token(token_entropy(view.logits.detach())) if entropy else None,
        )

    def check_policy(self) -> None:
        """Raises DivergenceError where the policy as it is now gives no finite log-probabilities.

        On a few samples of the last rollout: weights can be finite, and what they compute not.
        """
        if self._probe is not None:
            log_policy = log_policy_of(self.policy, self._probe)
            self._check("the log-probabilities are", log_policy, update=self.update)

    def _check(self, what: str, *values: Tensor | None, update: int | None = None) -> None:
        """Raises DivergenceError, with update and remedy, where not all values are finite."""
        if all(value is None or bool(value.isfinite().all()) for value in values):
            return
        update = self.update + 1 if update is None else update
        # Before the first step nothing is the learning rate's fault.
        stepped = bool(self.optimisation.optimizer.state)
        rate = f"lower optim.lr={self.config.optim.lr:g}, " if stepped else ""
        raise DivergenceError(
            f"update {update}: {what} {'no longer' if stepped else 'not'} finite: {rate}"
            f"scale the reward or beta={self.config.beta:g}, or use model.dtype=float32"
        )

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the block's seconds as `time/<stage>` of this update."""
        if self.policy.device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        yield
        if self.policy.device.type == "cuda":
            torch.cuda.synchronize()
        self._timings[stage] += time.perf_counter() - started

    def _generator(self, update: int) -> torch.Generator:
        """Random numbers that depend on seed and update alone, so that a resume needs no state."""
        return seeded_generator("rollout", self.config.seed, update, device=self.policy.device)

    def _minibatches(self, count: int, generator: torch.Generator) -> Iterator[Tensor]:
        device = generator.device
        if self.objective.minibatches == 1:
            yield torch.arange(count, device=device)
            return
        order = torch.randperm(count, generator=generator, device=device)
        yield from order.tensor_split(self.objective.minibatches)

    def _renew_proposal(self, samples: Samples, log_target: Tensor) -> None:
        if self.proposal is None:
            return
        budget = self.config.rollout.micro_batch_tokens
        log_policy = log_policy_of(self.policy, samples, budget)
        if self.objective.refresh_proposal(samples, log_target, log_policy.sum(1)):
            self.proposal = self.policy.snapshot()

    def _record(
        self, samples: Samples, statistics: Statistics, elapsed: float, share: float
    ) -> Record:
        tokens = int(samples.lengths.sum())
        own = len(samples) - self.objective.prior_rows(len(samples))
        samples = samples.select(torch.arange(own, device=samples.lengths.device))
        record: Record = {
            "update": self.update,
            "episode": self.update * self.config.batch_size,
            "seconds": self.seconds,
            "objective/kl": (samples.log_policy - samples.log_prior).sum(1).mean().item(),
            "objective/entropy": -samples.log_policy_sequence.mean().item(),
            "objective/scores": samples.reward.mean().item(),
            **statistics,
            **({"anneal/evidence_share": share} if self.config.anneal else {}),
            "val/num_eos_tokens": int(samples.ended.sum()),
            "lr": self.optimisation.lr,
            "tokens_per_second": tokens / elapsed,
        }
        return record | {f"time/{stage}": value for stage, value in self._timings.items()}


def dealt(contexts: list[T], others: int) -> tuple[list[T], list[T]]:
    """The contexts parted in two, `others` of them, evenly spread, in the second part."""
    count = len(contexts)
    second = [(row + 1) * others // count > row * others // count for row in range(count)]
    return (
        [context for context, chosen in zip(contexts, second, strict=True) if not chosen],
        [context for context, chosen in zip(contexts, second, strict=True) if chosen],
    )


def _select(signals: Signals, rows: Tensor, length: int | None = None) -> Signals:
    """The rows of `(N,)` and `(N, T)` signals, the latter cut to `length`."""
    chosen = {name: value[rows] for name, value in signals.items()}
    return {n: value[:, :length] if value.dim() > 1 else value for n, value in chosen.items()}


def _averages(collected: dict[str, list[float]]) -> Statistics:
    averages = {name: sum(values) / len(values) for name, values in collected.items()}
    ratios = collected.get("val/ratio", [])
    if len(ratios) > 1:
        mean = averages["val/ratio"]
        averages["val/ratio_var"] = sum((r - mean) ** 2 for r in ratios) / (len(ratios) - 1)
    return averages
