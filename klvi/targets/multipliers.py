"""The exponential family p ∝ π0·exp(Σ λ_i φ_i) with given means of φ, from weighted samples.

λ minimises the convex dual `mean_c log E_π0[e^(λφ)|c] − λμ`, with the gradient
`mean_c E_p[φ|c] − μ` and the Hessian `mean_c Cov_p[φ|c]` (Csiszár 1975, *Ann. Probab.* 3; Khalifa
et al. 2021, arXiv 2012.11635, section 2). Contexts c share λ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from klvi.errors import UserError
from klvi.metrics.base_rate import base_rate_bound

Array = NDArray[np.float64]

# Of the correlations of features, the least eigenvalue at which λ is told.
COLLINEAR = 1e-9
# What is smaller, beside the largest coefficient or bound of an inequality, is rounding.
ROUNDING = 1e-6
# The largest distance of a mean from the asked one, in standard deviations, at a solution.
SOLVED = 1e-7


@dataclass(frozen=True)
class Multipliers:
    """The solution.

    Attributes:
        value: `(K,)` λ, nats per unit of each feature.
        error: `(K,)` standard errors.
        effective: effective sample size of all contexts together, weighed towards p.
    """

    value: Array
    error: Array
    effective: float


@dataclass(frozen=True)
class Features:
    """Weighted samples of K features of π0, equal ones of a context taken together.

    Attributes:
        names: K names, as errors tell them.
        values: `(G, K)`.
        weight: `(G,)`, which sum to 1 in each context.
        square: `(G,)` sums of the squared weights of the samples behind each.
        place: `(G,)` the context of each, in 0 … C − 1.
        count: how many samples say something.
    """

    names: Sequence[str]
    values: Array
    weight: Array
    square: Array
    place: NDArray[np.int64]
    count: int

    @classmethod
    def of(
        cls, names: Sequence[str], values: Array, weight: Array, place: NDArray[np.int64]
    ) -> Features:
        """Those of `(N, K)` values with `(N,)` weights, of which zeros say nothing."""
        kept = weight > 0
        rows = np.column_stack([place, values])[kept]
        distinct, group = np.unique(rows, axis=0, return_inverse=True)
        group = group.reshape(-1)
        return cls(
            names,
            distinct[:, 1:],
            np.bincount(group, weight[kept]).astype(np.float64),
            np.bincount(group, weight[kept] ** 2).astype(np.float64),
            distinct[:, 0].astype(np.int64),
            int(kept.sum()),
        )

    @property
    def contexts(self) -> int:
        """C."""
        return int(self.place.max()) + 1

    def means(self, probability: Array) -> Array:
        """`(C, K)` means of the features in each context."""
        weighted = probability[:, None] * self.values
        columns = [np.bincount(self.place, column, self.contexts) for column in weighted.T]
        return np.stack(columns, 1)

    def covariance(self, probability: Array) -> Array:
        """`(K, K)` of the features within a context, averaged over contexts."""
        centred = self.values - self.means(probability)[self.place]
        return (probability[:, None] * centred).T @ centred / self.contexts

    def tilted(self, multipliers: Array) -> tuple[Array, Array]:
        """`(G,)` weights towards p, which sum to 1 in each context, and `(C,)` log Z."""
        exponent = np.log(self.weight) + self.values @ multipliers
        largest = np.full(self.contexts, -np.inf)
        np.maximum.at(largest, self.place, exponent)
        probability = np.exp(exponent - largest[self.place])
        sums = np.bincount(self.place, probability, self.contexts)
        return probability / sums[self.place], np.log(sums) + largest


def solve(features: Features, means: Array) -> Multipliers:
    """λ such that the features have these `(K,)` means, averaged over contexts.

    Raises UserError where no λ does, saying why, and where more than one does.
    """
    _check_variation(features)
    _check_edges(features, means)
    centre = features.means(features.weight).mean(0)
    scale = np.sqrt(np.diag(features.covariance(features.weight)))
    standard = Features(
        features.names,
        (features.values - centre) / scale,
        features.weight,
        features.square,
        features.place,
        features.count,
    )
    wanted = (means - centre) / scale
    _check_hull(features, standard, means, wanted, scale)
    _check_collinear(features, standard, scale)
    value = _minimised(standard, wanted)
    probability, _ = standard.tilted(value)
    return Multipliers(
        value / scale, _errors(standard, probability) / scale, _effective(standard, probability)
    )


def _minimised(standard: Features, wanted: Array) -> Array:
    from scipy.optimize import minimize

    least: Any = minimize

    def dual(multipliers: Array) -> tuple[float, Array]:
        probability, log_z = standard.tilted(multipliers)
        value = float(log_z.mean() - multipliers @ wanted)
        return value, standard.means(probability).mean(0) - wanted

    found = least(
        dual,
        np.zeros(len(wanted)),
        jac=True,
        hess=lambda multipliers: standard.covariance(standard.tilted(multipliers)[0]),
        method="trust-exact",
        options={"gtol": SOLVED * 1e-3, "max_trust_radius": 1e4},
    )
    value: Array = found.x
    missed = np.abs(dual(value)[1]).max()
    if not missed <= SOLVED:
        raise UserError(
            f"target.features: no λ was found ({found.message}): the means lie too near to the "
            "edge of what these samples can have; move them inwards, or raise target.fit_samples"
        )
    return value


def _squares(standard: Features, probability: Array) -> Array:
    """`(G,)` sums of the squared weights towards p of the samples behind each."""
    return standard.square * (probability / standard.weight) ** 2


def _errors(standard: Features, probability: Array) -> Array:
    """Standard errors of λ by the sandwich `H⁻¹·Σ u uᵀ·H⁻¹`, u each sample's part in the means."""
    centred = standard.values - standard.means(probability)[standard.place]
    meat = (_squares(standard, probability)[:, None] * centred).T @ centred / standard.contexts**2
    bread = np.linalg.inv(standard.covariance(probability))
    errors: Array = np.sqrt(np.diag(bread @ meat @ bread).clip(0))
    return errors


def _effective(standard: Features, probability: Array) -> float:
    return float(standard.contexts**2 / _squares(standard, probability).sum())


def _check_variation(features: Features) -> None:
    """A feature that is the same throughout a context cannot be moved."""
    spread = np.diag(features.covariance(features.weight))
    for name, column, variance in zip(features.names, features.values.T, spread, strict=True):
        size = np.abs(column).max()
        if variance > (1e-12 * size) ** 2:
            continue
        always = f"{column[0]:g}" if np.ptp(column) <= 1e-9 * size else "the same of each prompt"
        raise UserError(
            f"target.features.{name}: is {always} in all {features.count} samples: anything else "
            f"has a base rate below {base_rate_bound(features.count):.2g} (95% bound); raise "
            "target.fit_samples, or choose a feature that varies"
        )


def _check_edges(features: Features, means: Array) -> None:
    """A mean of 0 or 1 of a binary feature asks for a constraint, of which λ is infinite."""
    for name, column, mean in zip(features.names, features.values.T, means, strict=True):
        if mean in (0, 1) and set(np.unique(column)) <= {0, 1}:
            raise UserError(
                f"target.features.{name}.mean={mean:g}: a feature of 0 and 1 that is always "
                f"{mean:g} is a constraint; use target=constraint, or target.constraint=true, with "
                "a reward for it"
            )


def _check_hull(
    features: Features, standard: Features, means: Array, wanted: Array, scale: Array
) -> None:
    """The means must lie inside the convex hull of the samples, averaged over contexts.

    Else there is a direction v with `mean_c max_x v·φ(x) <= v·μ`, which is more than the mean of
    v·φ: the linear program takes the one that separates most.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, hstack

    groups, dimensions = standard.values.shape
    highest = csr_array(
        (np.full(groups, -1.0), (np.arange(groups), standard.place)),
        (groups, standard.contexts),
    )
    share = np.full(standard.contexts, 1 / standard.contexts)
    program: Any = linprog
    found = program(
        np.concatenate([-wanted, share]),
        A_ub=hstack([csr_array(standard.values), highest]),
        b_ub=np.zeros(groups),
        A_eq=np.concatenate([wanted, 0 * share])[None],
        b_eq=[1.0],
        bounds=(None, None),
    )
    if found.status != 0 or -found.fun < -ROUNDING:
        return
    direction = found.x[:dimensions] / scale
    top = np.full(features.contexts, -np.inf)
    np.maximum.at(top, features.place, features.values @ direction)
    bound, needed = float(top.mean()), float(means @ direction)
    given = ", ".join(f"{n}={mean:g}" for n, mean in zip(features.names, means, strict=True))
    where = "in all" if features.contexts == 1 else "on average over the prompts in all"
    left, sign, right, factor = _inequality(features.names, direction, bound)
    edge = needed - bound <= ROUNDING * max(1.0, abs(bound))
    raise UserError(
        f"target.features: no distribution has the means {given}: {left} {sign} {right:.6g} "
        f"{where} {features.count} samples, and they need {factor * needed:.6g}"
        + (", which only a constraint has" if edge else "")
        + "; choose means within, or raise target.fit_samples"
    )


def _check_collinear(features: Features, standard: Features, scale: Array) -> None:
    values, vectors = np.linalg.eigh(standard.covariance(standard.weight))
    if values[0] > COLLINEAR:
        return
    direction: Any = vectors[:, 0] / scale
    constant = float((features.values @ direction).mean())
    left, _, right, _ = _inequality(features.names, direction, constant)
    raise UserError(
        f"target.features: {left} = {right:.6g} in all {features.count} samples, so that one "
        "of these features follows from the others; leave it out"
    )


def _inequality(
    names: Sequence[str], direction: Array, bound: float
) -> tuple[str, str, float, float]:
    """`direction·φ <= bound` as text, sign and number, scaled by the factor that comes last."""
    kept = np.abs(direction) > ROUNDING * np.abs(direction).max()
    first = direction[kept][0]
    factor = np.sign(first) / np.abs(direction).max()
    parts = []
    for name, number in zip(names, factor * direction, strict=True):
        if abs(number) <= ROUNDING:
            continue
        size = "" if abs(abs(number) - 1) < ROUNDING else f"{abs(number):.4g}·"
        parts.append((" - " if number < 0 else " + ") + size + name)
    return (
        "".join(parts).removeprefix(" + "),
        "<=" if factor > 0 else ">=",
        factor * bound + 0.0,
        factor,
    )
