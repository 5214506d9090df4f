"""Exact values of an evaluation's metrics, where all sequences of the prior can be listed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel

from klvi.contexts import Context
from klvi.engine.micro_batch import MicroBatch
from klvi.errors import UserError
from klvi.evaluation.plan import Plan
from klvi.evaluation.schema import MAX_SEQUENCES
from klvi.metrics.enumeration import (
    Enumeration,
    Listed,
    enumerate_sequences,
    kl_forward,
    kl_reverse,
)
from klvi.metrics.exact import Exact, averaged, exact_metrics
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.metrics.split import GOLD
from klvi.metrics.tilting import tilt_within_kl
from klvi.policy.policy import Policy
from klvi.rewards.base import Reward, of_rollout
from klvi.rewards.scoring import scored
from klvi.samples import Completions, Samples
from klvi.targets.base import Target

# KL(p‖π) and KL(π‖p) of the p whose fitted numbers are exact.
EXACT_FIT = ("eval/kl_target_forward_exact_fit", "eval/kl_target_reverse_exact_fit")


@dataclass
class ExactEvaluator:
    """Gives the metrics of the policy as it is now the values that they estimate.

    Of C contexts all S sequences are listed, each context's values are computed, and then averaged.
    What does not change during a run (the sequences, their prior, scores and target) is computed
    once. Everything is in float64, whatever the policy is trained in.

    Attributes:
        policy: of an enumerable prior.
        target: the target; its log P are summed once.
        gold: a further reward that is measured; None for none.
        letters: of the prior.
        length: tokens of a completion at most.
        contexts: what the sequences complete.
        pass_k: the numbers of samples k for which pass@k is wanted.
        plan: the samples that the values of `eval/ess`, duplicates and distinct-n are given for.
        batch_size: prefixes in a forward pass; None for all.
    """

    policy: Policy
    target: Target
    letters: int
    length: int
    contexts: Sequence[Context] = (Context(0),)
    plan: Plan = field(default_factory=Plan)
    batch_size: int | None = None
    gold: Reward | None = None
    pass_k: Sequence[int] = ()
    _scored: Samples | None = field(default=None, init=False)
    _log_targets: Tensor | None = field(default=None, init=False)
    _tilt: float | None = field(default=None, init=False)

    def evaluate(self, update: int) -> Exact:
        """The exact value of every metric that has one, by the metric's name.

        What a target has fitted has the value that the fit estimates, and `…_exact_fit` are the
        KLs to the target with these values.

        Raises UserError where there are too many sequences, or the reward fails; `update` is named
        in its errors.
        """
        samples = self.scored(update)
        shape = len(self.contexts), len(self.sequences)
        scores = {name: values.reshape(shape) for name, values in samples.scores.items()}
        tables = self.log_policies(), self.log_priors, self.log_targets(update)
        found = averaged(
            [
                exact_metrics(
                    self.sequences,
                    *log_probs,
                    {name: values[row] for name, values in scores.items()},
                    beta=self.target.beta,
                    n=self.plan.samples,
                    n_prior=self.plan.prior_samples,
                    tilt=self.tilt(update),
                    pass_k=self.pass_k,
                    no_target=self.target.no_potential,
                )
                for row, log_probs in enumerate(zip(*tables, strict=True))
            ]
        )
        return {**found, **self._exact_fit(update, tables[0])}

    def _exact_fit(self, update: int, log_policies: Tensor) -> Exact:
        """The target's fitted numbers, exactly, and the KLs to that target; {} without any."""
        uniform = torch.zeros(len(self.contexts) * len(self.sequences)).double()
        samples = replace(self.scored(update), log_density=uniform)
        try:
            optimum = self.target.optimum(samples)
        except UserError as error:  # such as a KL that the fit's samples seemed to reach
            names = (*self.target.report(), *EXACT_FIT)
            return {name: Unavailable(str(error)) for name in names}
        if optimum is None:
            return {}
        # What has no error, such as an effective sample size, is the fit's own.
        fitted = {
            name: found.value
            for name, found in optimum.report().items()
            if isinstance(found, Measurement) and found.low < found.high
        }
        log_targets = optimum.log_unnormalised(samples).reshape(log_policies.shape)
        listed = [
            Listed(self.sequences, log_policy, log_prior, log_target, {}, optimum.beta, n=1)
            for log_policy, log_prior, log_target in zip(
                log_policies, self.log_priors, log_targets, strict=True
            )
        ]
        kls = [{EXACT_FIT[0]: kl_forward(each), EXACT_FIT[1]: _kl_reverse(each)} for each in listed]
        return {**fitted, **averaged(kls)}

    @cached_property
    def sequences(self) -> Enumeration:
        """All S sequences that a rollout of a context can have."""
        end = self.policy.prior.stop_token_ids[0]
        return enumerate_sequences(range(self.letters), end, self.length, MAX_SEQUENCES)

    def check_size(self) -> None:
        """Raises UserError where all sequences of all contexts are too many to list."""
        count = len(self.sequences) * len(self.contexts)
        if count > MAX_SEQUENCES:
            raise UserError(
                f"prompts.path: {len(self.contexts):,} prompts with {len(self.sequences):,} "
                f"sequences each are more than the {MAX_SEQUENCES:,} that exact evaluation lists; "
                "give fewer prompts, or a smaller model.letters or model.length"
            )

    @cached_property
    def log_priors(self) -> Tensor:
        """`(C, S)` log π0(x), nats per sequence."""
        return self._log_tokens_of_prior.sum(-1)

    @cached_property
    def _log_tokens_of_prior(self) -> Tensor:
        return self._log_tokens(self.policy.prior.model)

    @property
    def log_prior(self) -> Tensor:
        """`(S,)` log π0(x) of the first context."""
        return self.log_priors[0]

    def log_policies(self) -> Tensor:
        """`(C, S)` log π(x) of the policy as it is now, nats per sequence."""
        return self._log_tokens(self.policy.model).sum(-1)

    @torch.no_grad()
    def _log_tokens(self, model: PreTrainedModel) -> Tensor:
        """`(C, S, T)` nats per token, 0 in padded places."""
        tokens, lengths = self.sequences.tokens, self.sequences.lengths
        places = torch.arange(tokens.shape[1])
        chosen = self._log_next(model)[:, self._branches[:, None], places, tokens]
        return torch.where(places < lengths[:, None], chosen, 0.0)

    def log_policy(self) -> Tensor:
        """`(S,)` log π(x) of the first context."""
        return self.log_policies()[0]

    def scored(self, update: int) -> Samples:
        """All `C·S` sequences, context by context, scored, as samples of the prior."""
        if self._scored is None:
            sequences, count, rows = self.sequences, len(self.sequences), len(self.contexts)
            prompts, sizes = (part.cpu() for part in self.policy.prior.encode(self.contexts))
            prompts, sizes = prompts.repeat_interleave(count, 0), sizes.repeat_interleave(count)
            tokens, lengths = sequences.tokens.repeat(rows, 1), sequences.lengths.repeat(rows)
            log_prior = self._log_tokens_of_prior.flatten(0, 1)
            samples = Samples(
                contexts=[context for context in self.contexts for _ in range(count)],
                prompt_tokens=prompts,
                prompt_lengths=sizes,
                tokens=tokens,
                lengths=lengths,
                ended=sequences.ended.repeat(rows),
                log_policy=log_prior,
                log_prior=log_prior,
                texts=self.policy.prior.decode(prompts, sizes, tokens, lengths),
            )
            scorers = dict(self.target.scorers) | ({} if self.gold is None else {GOLD: self.gold})
            told = {name: reward for name, reward in scorers.items() if not of_rollout(reward)}
            self._scored = scored(samples, told, update=update)
        return self._scored

    def log_targets(self, update: int) -> Tensor:
        """`(C, S)` log P(x), unnormalised, nats per sequence, computed once.

        Raises UserError where the target excludes all sequences of a context.
        """
        if self._log_targets is not None:
            return self._log_targets
        shape = len(self.contexts), len(self.sequences)
        if self.target.no_potential is not None:
            return self.log_priors
        log_target = self.target.log_unnormalised(self.scored(update)).reshape(shape)
        if bool((log_target == -torch.inf).all(1).any()):
            raise UserError(
                f"target={self.target.name}: none of the prior's {shape[1]:,} sequences "
                "satisfies it: lower target.threshold, or choose another reward"
            )
        self._log_targets = log_target
        return log_target

    def tilt(self, update: int) -> float:
        """Nats per unit of gold of gold's own posterior, at the target's KL to the prior.

        0 without gold; computed once.
        """
        if self._tilt is None:
            gold = self.scored(update).scores.get(GOLD)
            if gold is None or self.target.no_potential is not None:
                return 0.0
            log_density = self.log_targets(update).log_softmax(1)
            log_ratio = torch.where(log_density > -torch.inf, log_density - self.log_priors, 0.0)
            kl = float((log_density.exp() * log_ratio).sum(1).mean())
            context = torch.arange(len(self.contexts)).repeat_interleave(len(self.sequences))
            self._tilt = tilt_within_kl(gold, self.log_priors.flatten(), context, kl)
        return self._tilt

    def _log_next(self, model: PreTrainedModel) -> Tensor:
        """`(C, R, T, V)` next-token log-probabilities along each of the R longest prefixes.

        The prefixes of T − 1 letters pass through every shorter one: with them all sequences are
        scored, and no prefix needs a pass of its own.
        """
        full = self.sequences.tokens.shape[1]
        rows = self.sequences.tokens[self._longest].to(self.policy.device)
        prompts, prompt_lengths = self.policy.prior.encode(self.contexts)
        pairs = torch.cartesian_prod(torch.arange(len(self.contexts)), torch.arange(len(rows)))
        parts = []
        at_once = self.batch_size or len(pairs)
        model = copy.deepcopy(model).double()
        for part in pairs.to(self.policy.device).split(at_once):
            context, row = part.unbind(1)
            lengths = torch.full_like(context, full)
            listed = Completions(prompts[context], prompt_lengths[context], rows[row], lengths)
            logits = MicroBatch.of(listed).forward(model).logits
            parts.append(logits.log_softmax(-1).reshape(len(part), full, -1).cpu())
        return torch.cat(parts).reshape(len(self.contexts), len(rows), full, -1)

    @cached_property
    def _longest(self) -> Tensor:
        """`(R,)` the sequences of T − 1 letters and the end token, in their order."""
        sequences = self.sequences
        return (sequences.ended & (sequences.lengths == sequences.tokens.shape[1])).nonzero()[:, 0]

    @cached_property
    def _branches(self) -> Tensor:
        """`(S,)` the first of the R longest prefixes that begins with each sequence."""
        prefix = self.sequences.tokens[:, :-1]
        digits = torch.where(prefix < self.letters, prefix, 0)
        powers = self.letters ** torch.arange(prefix.shape[1]).flip(0)
        return (digits * powers).sum(1)


def _kl_reverse(listed: Listed) -> float | Unavailable:
    """KL(π‖p), nats, where the policy has no probability outside of p."""
    if listed.outside > 0:
        return Unavailable("infinite: the target excludes what the policy writes")
    return kl_reverse(listed)
