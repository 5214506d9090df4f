"""A target with a parameter that is fitted: the reward has a wanted mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from klvi.contexts import unprompted
from klvi.errors import UserError
from klvi.rewards.base import Reward
from klvi.rewards.scoring import score
from klvi.samples import Samples
from klvi.targets.base import Target, resolved

STEPS = 100  # of the bisection, which then is at the limit of float64
WIDEST = 1e4  # nats between a tilt of 0 and the largest, over the range of the rewards


@dataclass(frozen=True)
class Mean(Target):
    """p ∝ π0·exp(tilt·r) with E_p[r] = `mean`, averaged over contexts.

    Of all distributions with that mean it is the nearest to π0 in KL(·‖π0) (Khalifa et al. 2021,
    arXiv 2012.11635).

    Attributes:
        reward: r.
        beta: does not enter p; it scales losses.
        mean: wanted.
        samples: of the prior that the tilt is fitted to.
        tilt: nats per unit of the reward; None until it is fitted.
    """

    name: ClassVar[str] = "mean"
    reward: Reward
    beta: float
    mean: float
    samples: int = 4096
    tilt: float | None = None

    @classmethod
    def wanted(
        cls, reward: Reward, beta: float, mean: float, texts: str | None, samples: int
    ) -> Mean:
        """The target of a section: with `mean`, or the mean reward of a file of `texts`."""
        wanted = mean if texts is None else mean_of_texts(reward, texts)
        return cls(reward, beta, wanted, samples)

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """The reward alone."""
        return {"reward": self.reward}

    def log_potential(self, samples: Samples) -> Tensor:
        """tilt·r: `(N,)`, nats."""
        assert self.tilt is not None, "is fitted before it is used"
        return resolved(self.tilt * samples.reward.double(), f"a tilt of {self.tilt:.3g}")

    def samples_to_fit(self, update: int, updates: int = 1) -> int:
        """Once, to the prior's samples."""
        return self.samples if update == 0 else 0

    def fitted(self, samples: Samples) -> Mean:
        """With the tilt at which the samples, weighed towards p, have the wanted mean.

        The mean grows with the tilt, so that bisection finds it. Raises UserError where no tilt
        gives it, as it lies beyond the rewards of all samples.
        """
        reward = samples.reward.double().cpu()
        log_weight = (samples.log_prior_sequence - samples.log_drawn).cpu()
        low, high = float(reward.min()), float(reward.max())
        if not low < self.mean < high:
            raise UserError(
                f"target.mean={self.mean:g}: the rewards of {len(samples)} samples of the prior "
                f"lie between {low:g} and {high:g}; choose a mean between them, raise "
                "target.samples, or choose another reward"
            )
        below, above = -WIDEST / (high - low), WIDEST / (high - low)
        for _ in range(STEPS):
            tilt = (below + above) / 2
            mean = mean_of_contexts(reward, log_weight + tilt * reward, samples.context)
            below, above = (tilt, above) if mean < self.mean else (below, tilt)
        return replace(self, tilt=tilt)

    def state(self) -> dict[str, Any]:
        """The tilt, once there is one."""
        return {} if self.tilt is None else {"tilt": self.tilt}

    def with_state(self, state: dict[str, Any]) -> Mean:
        """With the tilt of another's `state()`; raises ValueError for what is none."""
        tilt = state.get("tilt")
        if set(state) - {"tilt"} or not isinstance(tilt, float | None):
            raise ValueError(f"{state} is no state of target mean")
        return replace(self, tilt=tilt)


def mean_of_texts(reward: Reward, path: str) -> float:
    """The mean reward of completions, of no prompt, that are the lines of a file.

    Raises UserError where the file cannot be read, or has no lines.
    """
    try:
        texts = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"target.texts={path}: cannot be read ({error})") from error
    if not texts:
        raise UserError(f"target.texts={path}: is empty; give a completion per line")
    return score(reward, texts, unprompted(len(texts)), update=0).mean().item()


def mean_of_contexts(values: Tensor, log_weight: Tensor, context: Tensor) -> float:
    """The mean over contexts of the self-normalised means of `values` `(N,)` in each.

    Args:
        log_weight: `(N,)` nats, up to a constant of each context.
        context: `(N,)` of each sample.
    """
    rows, place = context.unique(return_inverse=True)
    largest = torch.full((len(rows),), -torch.inf).double()
    largest = largest.scatter_reduce(0, place, log_weight, "amax")
    weight = (log_weight - largest[place]).exp()
    sums = torch.zeros(2, len(rows)).double()
    sums = sums.index_add(1, place, torch.stack([weight * values, weight]))
    return float((sums[0] / sums[1]).mean())
