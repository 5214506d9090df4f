"""The one training loop: roll out, score, loss, update, log, evaluate, checkpoint."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from klvi import interruption
from klvi.engine.memory import out_of_memory
from klvi.engine.micro_batch import MicroBatch
from klvi.engine.scoring import token_entropy
from klvi.errors import UserError
from klvi.metrics.measurement import Measurement
from klvi.objectives.base import Objective, Prediction, Signals, Statistics, Totals
from klvi.policy.policy import Policy
from klvi.processes import ALONE, Processes
from klvi.prompts.stream import PromptStream
from klvi.randomness import Randomness, seeded_generator
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.samplers.sharded import sample_sharded
from klvi.samples import Draw, Samples
from klvi.targets.base import Target
from klvi.timing import collecting, timed
from klvi.training.fitting import refitted
from klvi.training.optimisation import Optimisation

Record = dict[str, Any]
# What one forward pass learns from: its inputs, the n sequences, and the objective's signals.
Part = tuple[MicroBatch, Samples, Signals]
# Samples on which a policy is checked before it is kept.
PROBED = 4


class DivergenceError(UserError):
    """The policy is spoiled: what it has become must not be kept."""


@dataclass(frozen=True)
class LoopSettings:
    """How many updates, of what.

    Attributes:
        updates: of the whole run.
        batch_size: completions of a rollout.
        seed: of prompts, rollouts and minibatches.
        anneal: share of the updates, 0 to 1, over which the target is tempered.
        scored_tokens: tokens scored together; None for what suits model and device.
        learned_tokens: tokens of a forward pass with gradient; None likewise.
        recompute: whether activations are recomputed in the backward pass instead of kept.
    """

    updates: int
    batch_size: int
    seed: int = 0
    anneal: float = 0.0
    scored_tokens: int | None = None
    learned_tokens: int | None = None
    recompute: bool = False


@dataclass
class Loop:
    """Trains a policy on an objective; what happens beside an update is left to hooks.

    Attributes:
        proposal: draws what is learned from.
        ancestral: draws what the target is fitted to.
        processes: that share the work; each draws and learns from its rows, and all have the same
            samples, signals and weights.
        on_complete: called when an update is complete, before anything is done with its record.
        on_update: called after each update with its record.
        update: the number of updates done.
        seconds: wall time so far, across resumes.
        record: that of the last update, until all hooks are through with it.
    """

    settings: LoopSettings
    policy: Policy
    objective: Objective
    target: Target
    proposal: Sampler
    ancestral: Ancestral
    contexts: PromptStream
    optimisation: Optimisation
    processes: Processes = ALONE
    on_update: list[Callable[[Record], None]] = field(default_factory=list)
    on_complete: list[Callable[[], None]] = field(default_factory=list)
    update: int = 0
    seconds: float = 0.0
    record: Record | None = None

    def __post_init__(self) -> None:
        self._timings: dict[str, float] = defaultdict(float)
        self._probe: Samples | None = None
        self._fitted_before: int | None = None

    def run(self) -> None:
        """Do the updates that are left.

        Raises Interruption between two updates where a signal has come that user code swallowed.
        """
        while self.update < self.settings.updates:
            interruption.check()
            record = self.step()
            for hook in self.on_update:
                hook(record)

    def step(self) -> Record:
        """One update; returns its record."""
        started = time.perf_counter()
        self._timings.clear()
        with collecting(self._timings):
            draw, statistics, share = self._update()
        self._check("the weights are", *(p.detach() for p in self.policy.parameters()))
        self.update += 1
        elapsed = time.perf_counter() - started
        self.seconds += elapsed
        record = self._record(draw, statistics, elapsed, share)
        self.optimisation.advance()
        self.record = dict(record)
        for hook in self.on_complete:
            hook()
        return record

    def fit(self) -> None:
        """Fit the target where that is due before the next update, and has not been done."""
        if self._fitted_before == self.update:
            return
        target = refitted(
            self.target,
            self.update,
            self.settings.updates,
            policy=self.policy,
            sampler=self.ancestral,
            contexts=self.contexts,
            seed=self.settings.seed,
            processes=self.processes,
        )
        self._fitted_before = self.update
        if target is not None:
            self.target = target
            self.objective.reset()
            self.proposal.reset()

    def _update(self) -> tuple[Draw, Statistics, float]:
        self.fit()
        share = self.annealed_share(self.update)
        target = self.target.tempered(share)
        if share != self.annealed_share(self.update - 1):
            self.objective.reset()
            self.proposal.reset()
        draw = self.roll_out(target)
        samples = draw.samples
        self._probe = samples.select(torch.arange(min(PROBED, len(samples))))
        log_target = target.log_unnormalised(samples)
        with timed("update", self.policy.device), out_of_memory("updating"):
            signals, statistics = self.objective.signals(samples, target, log_target)
            self._renew_proposal(draw, log_target)
            if signals:
                statistics |= self.learn(samples, signals)
            else:
                self.optimisation.step()
        return draw, statistics, share

    def annealed_share(self, update: int) -> float:
        """How far the target is tempered after `update` updates: 1 when annealing is over.

        Where the target has several far modes, a policy that is sent to it at once settles in the
        first it finds; one that follows the tempered targets keeps the others alive.
        """
        steps = self.settings.anneal * self.settings.updates
        return 1.0 if update + 1 >= steps else (update + 1) / steps

    def roll_out(self, target: Target) -> Draw:
        """The next contexts, completed by the proposal and scored."""
        contexts = self.contexts.batch(self.update, self.settings.batch_size)
        randomness = self._randomness("rollout")
        draw = sample_sharded(
            self.processes, self.proposal, self.policy, target, contexts, randomness
        )
        samples = draw.samples
        self._check("the log-probabilities are", samples.log_policy, samples.values)
        return draw

    def learn(self, samples: Samples, signals: Signals) -> Statistics:
        """All passes over one rollout; returns the mean of each statistic over minibatches."""
        collected: dict[str, list[float]] = defaultdict(list)
        parts: list[Part] | None = None
        for epoch in range(self.objective.epochs):
            for rows in self._minibatches(len(samples), epoch):
                if parts is None or self.objective.minibatches > 1:
                    shard = self.processes.shard(len(rows))
                    own = rows[shard.start : shard.stop]
                    parts = list(self.parts(samples.select(own), _select(signals, own)))
                statistics = self.learn_minibatch(parts, entropy=epoch == 0)
                for name, value in statistics.items():
                    collected[name].append(value)
                if self.objective.stop_early(statistics):
                    return _averages(collected)
        return _averages(collected)

    def learn_minibatch(self, parts: Sequence[Part], *, entropy: bool) -> Statistics:
        """One optimizer step; gradients are summed over the parts of the minibatch."""
        lengths = [samples.lengths for _, samples, _ in parts]
        sizes = sum(map(len, lengths)), sum(int(each.sum()) for each in lengths)
        sequences, tokens = zip(*self.processes.gather(sizes), strict=True)
        totals = Totals(sum(sequences), sum(tokens))
        own: dict[str, float] = defaultdict(float)
        for batch, samples, signals in parts:
            prediction = self.predict(batch, entropy=entropy)
            loss, statistics = self.objective.loss(prediction, samples, signals, totals)
            self.optimisation.backward(loss)
            if prediction.entropy is not None:
                mean_entropy = prediction.entropy.sum().item() / totals.tokens
                statistics["policy/entropy_avg"] = mean_entropy
            for name, value in statistics.items():
                own[name] += value
        sums = _summed(self.processes.gather(dict(own)))
        if self.processes.count > 1:
            self.processes.reduce(self.optimisation.gradients())
        norm = self.optimisation.step()
        self._check("the gradient is", torch.tensor(norm))
        return {**sums, "optim/grad_norm": norm}

    def parts(self, samples: Samples, signals: Signals) -> Iterator[Part]:
        """A minibatch cut into what one forward pass takes; of no samples there are none."""
        if not len(samples):
            return
        for batch in self.policy.micro_batches(samples, self.settings.learned_tokens):
            chosen = samples.select(batch.rows).compact()
            yield batch, chosen, _select(signals, batch.rows, chosen.tokens.shape[1])

    def predict(self, batch: MicroBatch, *, entropy: bool) -> Prediction:
        """One forward pass for the policy's log-probabilities and, with a value head, values."""
        policy, head = self.policy, self.policy.value_head
        view = batch.forward(policy.recomputing if self.settings.recompute else policy.model)
        return Prediction(
            log_policy=view.log_probs(),
            values=None if head is None else view.per_token(head(view.hidden)),
            mask=batch.mask,
            entropy=view.per_token(token_entropy(view.logits.detach())) if entropy else None,
        )

    def check_policy(self) -> None:
        """Raises DivergenceError where the policy as it is now gives no finite log-probabilities.

        On a few samples of the last rollout: weights can be finite, and what they compute not.
        """
        if self._probe is not None:
            log_policy = self.policy.log_probs(self._probe)
            self._check("the log-probabilities are", log_policy, update=self.update)

    def _check(self, what: str, *values: Tensor | None, update: int | None = None) -> None:
        """Raises DivergenceError, with update and remedy, where not all values are finite."""
        if all(value is None or bool(value.isfinite().all()) for value in values):
            return
        update = self.update + 1 if update is None else update
        # Before the first step nothing is the learning rate's fault.
        stepped = bool(self.optimisation.optimizer.state)
        rate = f"lower optim.lr={self.optimisation.peak_lr:g}, " if stepped else ""
        raise DivergenceError(
            f"update {update}: {what} {'no longer' if stepped else 'not'} finite: {rate}"
            f"scale the reward or beta={self.target.beta:g}, or use model.dtype=float32"
        )

    def _randomness(self, purpose: str) -> Randomness:
        """Depends on seed and update alone, so that a resume needs no state."""
        update = self.update + 1
        return Randomness(purpose, (self.settings.seed, update), update)

    def _minibatches(self, count: int, epoch: int) -> Iterator[Tensor]:
        device = self.policy.device
        if self.objective.minibatches == 1:
            yield torch.arange(count, device=device)
            return
        seeds = self.settings.seed, self.update + 1, epoch
        generator = seeded_generator("minibatches", *seeds)
        order = torch.randperm(count, generator=generator).to(device)
        yield from order.tensor_split(self.objective.minibatches)

    def _renew_proposal(self, draw: Draw, log_target: Tensor) -> None:
        def log_policy() -> Tensor:
            shard, budget = self.processes.shard(len(draw.samples)), self.settings.scored_tokens
            own = draw.samples.select(torch.arange(shard.start, shard.stop))
            values = self.policy.log_probs(own, budget).double().sum(1)
            found = self.processes.gather(values.cpu())
            return torch.cat(found).to(values.device)

        self.proposal.adapt(draw, log_target, log_policy)

    def _record(self, draw: Draw, statistics: Statistics, elapsed: float, share: float) -> Record:
        samples = draw.samples
        log_ratio = samples.log_policy_sequence - samples.log_prior_sequence
        record: Record = {
            "update": self.update,
            "episode": self.update * self.settings.batch_size,
            "seconds": self.seconds,
            "objective/kl": samples.mean(log_ratio),
            "objective/entropy": -samples.mean(samples.log_policy_sequence),
            "objective/scores": samples.mean(samples.reward),
            **statistics,
            **draw.info,
            **{n: m.value for n, m in self.target.report().items() if isinstance(m, Measurement)},
            **({"anneal/share": share} if self.settings.anneal else {}),
            "val/num_eos_tokens": int(samples.ended.sum()),
            "lr": self.optimisation.lr,
            "tokens_per_second": int(samples.lengths.sum()) / elapsed,
        }
        return record | {f"time/{stage}": value for stage, value in self._timings.items()}


def _select(signals: Signals, rows: Tensor, length: int | None = None) -> Signals:
    """The rows of `(N,)` and `(N, T)` signals, the latter cut to `length`."""
    chosen = {name: value[rows] for name, value in signals.items()}
    return {n: value[:, :length] if value.dim() > 1 else value for n, value in chosen.items()}


def _summed(statistics: Sequence[Statistics]) -> Statistics:
    """The sums of statistics by name; a process without rows has none."""
    names = dict.fromkeys(name for each in statistics for name in each)
    return {name: sum(each.get(name, 0.0) for each in statistics) for name in names}


def _averages(collected: dict[str, list[float]]) -> Statistics:
    averages = {name: sum(values) / len(values) for name, values in collected.items()}
    ratios = collected.get("val/ratio", [])
    if len(ratios) > 1:
        mean = averages["val/ratio"]
        averages["val/ratio_var"] = sum((r - mean) ** 2 for r in ratios) / (len(ratios) - 1)
    return averages
