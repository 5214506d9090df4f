"""Proximal policy optimisation of the reward, with or without a KL penalty to the prior.

Without it (`rl`) the optimum is the single best sequence, or any mixture of several that are
equally good; the algorithm is TRL's, with its defaults. With it (`kl`) the optimum is the posterior
p ∝ π0·exp(r/β), and the loss is β·KL(π‖p) up to a constant (Korbak, Perez and Buckley 2022, arXiv
2205.11275, section 4).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from klvi.errors import UserError
from klvi.objectives.base import Objective, Prediction, Signals, Statistics, Totals
from klvi.objectives.schema import KLObjective, PPOSection, RLObjective
from klvi.samples import ROUNDINGS, Samples
from klvi.schema import settings_of
from klvi.targets.base import Target


def penalised_rewards(
    log_policy: Tensor, log_prior: Tensor, score: Tensor, lengths: Tensor, beta: float
) -> Tensor:
    """Per-token rewards `(N, T)`, float64: −β(log π − log π0), and the score on the last token.

    Their sum over T is the KL-penalised reward r + β(log π0(x) − log π(x)) (Ziegler et al. 2019,
    arXiv 1909.08593, section 2).

    Args:
        log_policy: `(N, T)`, nats per token, 0 in padded places; `log_prior` likewise.
        score: `(N,)`.
        lengths: `(N,)`.
    """
    rewards = -beta * (log_policy.double() - log_prior.double())
    return rewards.scatter_add(1, lengths[:, None] - 1, score[:, None].double())


def soft_value_offset(log_policy: Tensor, log_prior: Tensor, beta: float) -> Tensor:
    """β·log π(s)/π0(s) of the prefix s before each token, `(N, T)`, units of the reward.

    At the posterior the value of a prefix is V(s) = β·log E_π0[exp(r/β)|s]
    = β·log Z + β·log π(s)/π0(s). A critic that adds this offset has only the rest to learn, which
    becomes a constant as π → p, so that its error, the noise of the gradient there, vanishes.

    Args:
        log_policy: `(N, T)`, nats per token; `log_prior` likewise.
    """
    ratio = beta * (log_policy.double() - log_prior.double())
    return ratio.cumsum(1) - ratio


def renewed_penalty(
    advantages: Tensor,
    log_policy: Tensor,
    old_log_policy: Tensor,
    mask: Tensor,
    beta: Tensor | float,
) -> Tensor:
    """Advantages `(N, T)` with the KL penalty of the policy as it is now, without gradient.

    A later pass over a rollout that keeps the rollout's penalty pushes on where the policy has
    long arrived. With this the KL-penalised reward r + β(log π0(x) − log π(x)) is that of the
    present π, and every pass stops where it is constant, at the posterior. The reward is known
    without noise, so more passes then learn more of a rollout instead of overshooting.

    Args:
        advantages: `(N, T)`, of the rollout.
        log_policy: `(N, T)`, nats per token; `old_log_policy` likewise, of the rollout.
        mask: `(N, T)` bool.
        beta: a number, or `(N, 1)`.
    """
    moved = torch.where(mask, log_policy.detach() - old_log_policy, torch.zeros_like(advantages))
    renewed = advantages.double() - beta * moved.double().sum(1, keepdim=True)
    return torch.where(mask, renewed.to(advantages.dtype), advantages)


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gae_lambda: float
) -> Tensor:
    """GAE(λ) with γ = 1, `(N, T)`, 0 in padded places (Schulman et al. 2015, arXiv 1506.02438).

    Args:
        rewards: `(N, T)`; `values` `(N, T)` of the prefix before each token; both 0 in padding,
            so that the value after the last token is 0.
        mask: `(N, T)` bool.
    """
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    delta = torch.where(mask, rewards + following - values, torch.zeros_like(rewards))
    advantages = torch.zeros_like(delta)
    running = torch.zeros_like(delta[:, 0])
    for t in range(delta.shape[1] - 1, -1, -1):
        running = delta[:, t] + gae_lambda * running
        advantages[:, t] = running
    return advantages


def settled(advantages: Tensor, resolution: Tensor) -> Tensor:
    """Advantages `(N, T)` without those that are rounding, of at most `resolution` `(N, 1)`.

    An optimizer that normalises gradients would make full steps of them.
    """
    return torch.where(advantages.abs() <= resolution, 0.0, advantages)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the True places of `mask`, 0 elsewhere."""
    kept = values[mask]
    variance = kept.var() if len(kept) > 1 else kept.new_zeros(())
    whitened = (values - kept.mean()) * torch.rsqrt(variance + 1e-8)
    return torch.where(mask, whitened, torch.zeros_like(values))


def clipped_policy_loss(
    log_policy: Tensor, old_log_policy: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """Sum over tokens of max(−A·ρ, −A·clamp(ρ, 1 ± clip)), ρ = π/π_old; all `(N, T)`."""
    ratio = (log_policy - old_log_policy).exp()
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
    return losses[mask].sum()


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None
) -> Tensor:
    """Sum over tokens of ½·max((V − R)², (V_clipped − R)²); all `(N, T)`, units of reward²."""
    losses = (values - returns).square()
    if clip is not None:
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        losses = torch.maximum(losses, (clipped - returns).square())
    return 0.5 * losses[mask].sum()


class PPO(Objective):
    """PPO on a target's potential with a KL penalty per token, or on the reward alone.

    With `penalised` the score of a completion is β·log potential, the reward where the target is
    the posterior, and β weighs the penalty: the optimum is the target, whatever it is.
    """

    needs_values = True
    trainer = "ppo"

    section: ClassVar[type[PPOSection]]
    penalised: ClassVar[bool]

    def __init__(self, **settings: Any) -> None:
        self.config = settings_of(self.section, settings)
        self.epochs = self.config.epochs
        self.minibatches = self.config.minibatches
        self._units: tuple[float, float] | None = None

    def trainer_arguments(self, beta: float) -> dict[str, Any]:
        """Without a penalty the KL coefficient is 0."""
        config = self.config
        return {
            "num_ppo_epochs": self.epochs,
            "kl_coef": beta if self.penalised else 0.0,
            "cliprange": config.clip,
            "cliprange_value": config.value_clip or float("inf"),
            "vf_coef": config.value_coefficient,
            "lam": config.gae_lambda,
        }

    def _measured(self, score: Tensor, beta: float) -> tuple[Tensor, float]:
        """Scores `(N,)` and β in the units that learning has: from the first rollout's mean on.

        Where its spread exceeds 1 it is the unit, of β as well. p ∝ π0·exp(r/β) is the same for
        (r + c, β) and (k·r, k·β); a critic that starts at 0 and is clipped is not.
        """
        if self._units is None:
            self._units = 0.0, 1.0
            if self.config.centre_rewards:
                spread = float(score.double().std(correction=0))
                self._units = float(score.double().mean()), max(spread, 1.0)
        mean, unit = self._units
        return (score.double() - mean) / unit, beta / unit

    def reset(self) -> None:
        """Measure scores anew."""
        self._units = None

    def state_dict(self) -> dict[str, Any]:
        """The units of the scores."""
        return {} if self._units is None else {"units": list(self._units)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`."""
        units = state.get("units")
        self._units = None if units is None else (float(units[0]), float(units[1]))

    def signals(
        self, samples: Samples, target: Target, log_target: Tensor
    ) -> tuple[Signals, Statistics]:
        """Advantages and returns `(N, T)`, and β `(N, 1)` in the units of the scores."""
        score, full_beta = samples.reward, 0.0
        if self.penalised:
            score, full_beta = target.beta * target.log_potential(samples), target.beta
        measured, beta = self._measured(score, full_beta)
        values, offset = self._values(samples, beta)
        rewards = penalised_rewards(
            samples.log_policy, samples.log_prior, measured, samples.lengths, beta
        )
        advantages = generalised_advantages(rewards, values, samples.mask, self.config.gae_lambda)
        returns = advantages + values
        resolution = self._resolution(samples, measured, values, beta)
        if self.config.whiten_advantages:
            advantages = whiten(settled(advantages, resolution), samples.mask)
            resolution = torch.zeros_like(resolution)
        kl = (samples.log_policy_sequence - samples.log_prior_sequence).mean().item()
        statistics = {
            "objective/non_score_reward": -full_beta * kl,
            "objective/rlhf_reward": score.mean().item() - full_beta * kl,
        }
        found = {"advantages": advantages, "returns": returns, "values": values, "offset": offset}
        signals = {n: value.to(samples.log_policy.dtype) for n, value in found.items()}
        if not all(bool(value.isfinite().all()) for value in signals.values()):
            raise UserError(
                f"objective={self.name}: a reward of size {float(score.abs().max()):.3g} at "
                f"beta={full_beta:g} overflows; scale the reward, or choose another beta"
            )
        penalty = torch.full_like(resolution, beta)
        return {**signals, "resolution": resolution, "beta": penalty}, statistics

    def _resolution(self, samples: Samples, score: Tensor, values: Tensor, beta: float) -> Tensor:
        """`(N, 1)`, units of the score: what rounding makes of a penalised score less its value."""
        eps = ROUNDINGS * torch.finfo(torch.float32).eps
        size = score.double().abs() + values.abs().amax(1).double()
        return (beta * samples.resolution + eps * size)[:, None]

    def _values(self, samples: Samples, beta: float) -> tuple[Tensor, Tensor]:
        """The critic's values and, of these, what is not the value head's, both `(N, T)`."""
        assert samples.values is not None, "PPO needs samples with values"
        offset = torch.zeros_like(samples.values)
        if self.config.soft_values:
            full = soft_value_offset(samples.log_policy, samples.log_prior, beta)
            offset = torch.where(samples.mask, full, torch.zeros_like(full))
        return samples.values.double() + offset, offset

    def loss(
        self, prediction: Prediction, samples: Samples, signals: Signals, totals: Totals
    ) -> tuple[Tensor, Statistics]:
        """Clipped policy loss plus `value_coefficient` times the clipped value loss, per token."""
        assert prediction.values is not None
        mask, config = prediction.mask, self.config
        values = prediction.values + signals["offset"]
        old, advantages = samples.log_policy, signals["advantages"]
        if config.renew_penalty and not config.whiten_advantages:
            beta = signals["beta"]
            advantages = renewed_penalty(advantages, prediction.log_policy, old, mask, beta)
        advantages = settled(advantages, signals["resolution"])
        policy_loss = (
            clipped_policy_loss(prediction.log_policy, old, advantages, mask, config.clip)
            / totals.tokens
        )
        value_loss = (
            clipped_value_loss(
                values, signals["values"], signals["returns"], mask, config.value_clip
            )
            / totals.tokens
        )
        statistics = {
            "loss/policy_avg": policy_loss.item(),
            "loss/value_avg": value_loss.item(),
            **self._diagnostics(prediction, samples, signals, totals),
        }
        return policy_loss + config.value_coefficient * value_loss, statistics

    @torch.no_grad()
    def _diagnostics(
        self, prediction: Prediction, samples: Samples, signals: Signals, totals: Totals
    ) -> Statistics:
        """TRL's statistics, as means over the minibatch's tokens."""
        assert prediction.values is not None
        mask = prediction.mask
        difference = (prediction.log_policy - samples.log_policy)[mask]
        advantages, ratio = signals["advantages"][mask], difference.exp()
        clipped = ratio.clamp(1 - self.config.clip, 1 + self.config.clip)
        limit = self.config.value_clip or torch.inf
        returns, old = signals["returns"][mask], signals["values"][mask]
        values = (prediction.values + signals["offset"])[mask]
        error = values - returns
        clipped_error = values.clamp(old - limit, old + limit) - returns
        return {
            "policy/approxkl_avg": 0.5 * difference.square().sum().item() / totals.tokens,
            "policy/clipfrac_avg": (-advantages * clipped > -advantages * ratio).sum().item()
            / totals.tokens,
            "val/clipfrac_avg": (clipped_error.abs() > error.abs()).sum().item() / totals.tokens,
            "val/ratio": ratio.sum().item() / totals.tokens,
        }

    def stop_early(self, statistics: Statistics) -> bool:
        """Whether the policy has left the rollout's by more than `kl_stop` nats per token."""
        limit = self.config.kl_stop
        return limit is not None and statistics["policy/approxkl_avg"] > limit


class RL(PPO):
    """The expected reward alone; settings are the keys of `objective=rl`."""

    name, section, penalised = "rl", RLObjective, False


class KL(PPO):
    """Reverse KL to the target; settings are the keys of `objective=kl`."""

    name, section, penalised = "kl", KLObjective, True
