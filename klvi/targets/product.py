"""Several targets at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from klvi.errors import UserError
from klvi.metrics.measurement import Metric
from klvi.rewards.base import REPORTED, Reward
from klvi.samples import Samples
from klvi.targets.base import Target, checked_beta
from klvi.targets.schema import product_problem


def term(target: Target, reward: Reward | None = None, beta: float | None = None) -> Target:
    """A term of a product: `target`, which was made of the run's reward and β, with its own.

    Raises UserError where it has no use for one of them.
    """
    own = {"reward": reward, "beta": beta}
    changes: dict[str, Any] = {key: value for key, value in own.items() if value is not None}
    known: set[str] = {f.name for f in fields(target)} if is_dataclass(target) else set()
    unknown = sorted(changes.keys() - known)
    if unknown:
        raise UserError(f"target={target.name} in a product: takes no {unknown[0]} of its own")
    return replace(target, **changes) if changes else target  # type: ignore[type-var]


@dataclass(frozen=True)
class Product(Target):
    """p ∝ π0·Π_i exp(φ_i): the potentials φ_i of named targets, nats, added.

    log Z_12 = log Z_1 + log E_p1[exp(φ_2)]. What reads the text alone (posterior, constraint,
    ensemble, preference, continuation) multiplies freely, and posteriors of the same β add their
    rewards. What contains π0 changes its meaning: with `model` the teacher is the prior of the
    others, and two teachers give t1·t2/π0; powers give the exponent α1 + α2 − 1; `anchored`
    leaves exp(φ) of the others on its G, instead of a uniform distribution.

    Terms have the run's reward and β, or their own, whose scores stand as NAME/reward. `beta`
    itself only scales losses. Raises UserError for terms that cannot be multiplied.
    """

    name: ClassVar[str] = "product"
    terms: Mapping[str, Target]
    reward: Reward | None = None
    beta: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_beta(self.beta))
        problem = product_problem({label: target.name for label, target in self.terms.items()})
        if problem:
            raise UserError(f"target.terms{problem}")
        if self.reward is None:
            first = next(iter(self.terms.values())).scorers
            object.__setattr__(self, "reward", first.get(REPORTED))

    @property
    def scorers(self) -> Mapping[str, Reward]:
        """The run's reward, and what else a term reads, as NAME/SCORER."""
        found = {} if self.reward is None else {REPORTED: self.reward}
        for label, target in self.terms.items():
            others = {self._score_of(label, n, r): r for n, r in target.scorers.items()}
            found |= {name: reward for name, reward in others.items() if name != REPORTED}
        return found

    def _score_of(self, label: str, name: str, reward: Reward) -> str:
        """What a term's score is called among those of the product."""
        return REPORTED if name == REPORTED and reward is self.reward else f"{label}/{name}"

    def _view(self, label: str, samples: Samples) -> Samples:
        """The samples as a term knows them, by its own scores."""
        scores: dict[str, Tensor] = {}
        for name, reward in self.terms[label].scorers.items():
            whole = self._score_of(label, name, reward)
            scores |= {
                name + key.removeprefix(whole): values
                for key, values in samples.scores.items()
                if key == whole or key.startswith(f"{whole}/")
            }
        return samples.with_scores(scores)

    def log_potential(self, samples: Samples) -> Tensor:
        """Σ φ_i: `(N,)`, nats, −inf outside of any term."""
        parts = [t.log_potential(self._view(label, samples)) for label, t in self.terms.items()]
        return torch.stack(parts).sum(0)

    @property
    def no_potential(self) -> str | None:
        """Where a term has none."""
        return next(filter(None, (t.no_potential for t in self.terms.values())), None)

    def samples_to_fit(self, update: int, updates: int = 1) -> int:
        """As many as the term that takes most."""
        return max(target.samples_to_fit(update, updates) for target in self.terms.values())

    def fitted(self, samples: Samples) -> Product:
        """With every term that is fitted at all fitted, each as if it were alone."""
        return replace(self, terms={label: self._fitted(label, samples) for label in self.terms})

    def _fitted(self, label: str, samples: Samples) -> Target:
        try:
            return self.terms[label].fitted(self._view(label, samples))
        except UserError as error:  # which names keys of a target that stands alone
            own = f"target.terms.{label}.target"
            problems = [re.sub(r"\btarget(?=[.=])", own, problem) for problem in error.problems]
            raise UserError(*problems) from error

    def report(self) -> Mapping[str, Metric]:
        """What was fitted of each term, as `target/NAME/…`."""
        return {
            f"target/{label}/{name.removeprefix('target/')}": metric
            for label, target in self.terms.items()
            for name, metric in target.report().items()
        }

    def state(self) -> dict[str, Any]:
        """The state of each term that has one."""
        states = {label: target.state() for label, target in self.terms.items()}
        return {label: state for label, state in states.items() if state}

    def with_state(self, state: dict[str, Any]) -> Product:
        """With the terms' states of another; raises ValueError where it has other terms."""
        unknown = state.keys() - self.terms.keys()
        if unknown:
            raise ValueError(f"target {self.name} has no term {sorted(unknown)[0]}")
        terms = {label: t.with_state(state.get(label, {})) for label, t in self.terms.items()}
        return replace(self, terms=terms)
