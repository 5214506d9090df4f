"""The targets and their keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from klvi.registry import member_for
from klvi.rewards.schema import SEVERAL_SCORES, RewardSection
from klvi.schema import (
    Choice,
    InWords,
    Need,
    Remedy,
    RemoteCode,
    Section,
    Size,
    Source,
    Text,
    section_of,
)

POTENTIAL = "a potential"
FINITE_POTENTIAL = "a finite potential"
# That `Size` allows.
MOST_SAMPLES = 10**6
LABEL = re.compile(r"[\w.-]+")


class TargetSection(Choice):
    """MODELLING: which distribution is wanted; `beta` is the run's own."""

    group_name = "target"

    @classmethod
    def capabilities(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """What it `provides`, and a potential, which nearly every target has."""
        return cls.provides | {POTENTIAL}


class SolvedBetaSection(TargetSection):
    """Keys of a target whose potential depends on `beta`, which may be found instead of given."""

    kl_prior: Annotated[float, Field(gt=0)] | None = None
    """nats that the target is to be from the prior: finds beta, in place of the given one"""
    fit_samples: Annotated[Size, Field(ge=2)] = 4096
    """of the prior, from which beta is found"""


class PosteriorTarget(SolvedBetaSection):
    """p ∝ π0·exp(r/β), with the top-level `beta` or that of `kl_prior`."""

    builds = "klvi.targets.posterior:Posterior"
    provides: ClassVar[frozenset[str]] = frozenset({FINITE_POTENTIAL})
    name: Literal["posterior"]


class ConstraintTarget(TargetSection):
    """p ∝ π0·b, b = 1 where the reward is at least `threshold`."""

    builds = "klvi.targets.constraint:Constraint"
    name: Literal["constraint"]
    threshold: float = 0.5
    """the least reward that meets the constraint"""


class FeatureSection(Section):
    """A feature and the mean that it has under the target."""

    builds: ClassVar[str] = "klvi.targets.moments:Feature"
    reward: RewardSection
    mean: float
    """wanted under the target"""


class MomentsTarget(TargetSection):
    """p ∝ π0·exp(Σ λ·feature), λ such that each feature has its wanted mean."""

    builds = "klvi.targets.moments:Moments"
    name: Literal["moments"]
    features: dict[str, FeatureSection]
    """name: {reward: {name: ...}, mean: 0.5}"""
    constraint: bool = False
    """whether the reward has to be at least threshold as well"""
    threshold: float = 0.5
    """the least reward that meets the constraint"""
    fit_samples: Annotated[Size, Field(ge=2)] = 4096
    """to which λ is fitted"""
    refit_every: Annotated[int, Field(ge=1)] | None = 10
    """updates between fits to the policy's samples, up to two thirds of the run; null: none"""
    ess_floor: Annotated[float, Field(gt=0)] = 1000.0
    """effective samples of the prior below which λ is fitted again"""

    @classmethod
    def capabilities(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """Without a hard constraint the potential is finite."""
        finite = (
            frozenset({FINITE_POTENTIAL}) if values.get("constraint") is not True else frozenset()
        )
        return finite | {POTENTIAL}


class ForwardKLTarget(SolvedBetaSection):
    """p = β·π0/(Λ − r), the optimum of E[r] − β·KL(π0‖π); Λ is fitted, per prompt."""

    builds = "klvi.targets.forward_kl:ForwardKL"
    provides: ClassVar[frozenset[str]] = frozenset({FINITE_POTENTIAL})
    name: Literal["forward_kl"]
    reward_max: Annotated[float, Remedy("the largest reward there can be: {key}=1")]
    """no reward is larger: Λ lies above it"""
    refit_every: Annotated[int, Field(ge=1)] | None = 10
    """updates between fits to the policy's samples, up to two thirds of the run; null: none"""


ENSEMBLE_OF_ONE = Need(
    "reward",
    SEVERAL_SCORES,
    "an ensemble of one: the target is made of several named scores; use reward=sum of several "
    "terms, reward=model of several models, or reward=python with a dict of lists",
)


class EnsembleTarget(SolvedBetaSection):
    """p ∝ π0·exp((mean_m r_m − pessimism·spread_m r_m)/β) of the reward's separate scores r_m."""

    builds = "klvi.targets.ensemble:Ensemble"
    provides: ClassVar[frozenset[str]] = frozenset({FINITE_POTENTIAL})
    needs: ClassVar[tuple[Need, ...]] = (ENSEMBLE_OF_ONE,)
    name: Literal["ensemble"]
    pessimism: Annotated[float, Field(ge=0)] = 1.0
    """how much disagreement counts against a text; 0: the mean score"""
    spread: Literal["variance", "std", "min"] = "variance"
    """the disagreement; min: mean − min, the worst case at pessimism 1"""


class PreferenceTarget(SolvedBetaSection):
    """p ∝ π0·mean_m exp(r_m/β) of the reward's separate scores r_m: the likelihood is averaged."""

    builds = "klvi.targets.preference:Preference"
    provides: ClassVar[frozenset[str]] = frozenset({FINITE_POTENTIAL})
    needs: ClassVar[tuple[Need, ...]] = (ENSEMBLE_OF_ONE,)
    name: Literal["preference"]


class AnchoredTarget(TargetSection):
    """p uniform where the reward is at least `threshold`, π0·exp(r/β) elsewhere."""

    builds = "klvi.targets.anchored:Anchored"
    provides: ClassVar[frozenset[str]] = frozenset({FINITE_POTENTIAL})
    name: Literal["anchored"]
    threshold: float = 0.5
    """the least reward of a mode"""
    fit_samples: Annotated[Size, Field(ge=2)] = 4096
    """samples of the prior, in all, among which each prompt's anchor is found"""


def _sharpening(value: float) -> float:
    if value == 1:
        raise ValueError("1 is the prior itself")
    return value


class PowerTarget(TargetSection):
    """p ∝ π0^alpha over whole sequences: the prior sharpened, no reward at all."""

    builds = "klvi.targets.power:Power"
    provides: ClassVar[frozenset[str]] = frozenset({FINITE_POTENTIAL})
    name: Literal["power"]
    alpha: Annotated[
        float,
        Field(gt=0),
        AfterValidator(_sharpening),
        InWords("a number, greater than 0 and not 1, which is the prior itself"),
    ] = 4.0
    """the exponent; above 1 sharpens, below flattens"""


class ModelTarget(TargetSection):
    """Another language model with the prior's tokenizer: distillation."""

    builds = "klvi.targets.model:LanguageModel.load"
    provides: ClassVar[frozenset[str]] = frozenset({FINITE_POTENTIAL})
    name: Literal["model"]
    path: Annotated[
        Source, Remedy("a causal LM with the prior's tokenizer: {key}=HUB_ID_OR_FOLDER")
    ]
    """the teacher: hub id or folder"""
    revision: Text | None = None
    """branch, tag or commit on the hub"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """null: float32 on a CPU, the checkpoint's own on a GPU"""
    trust_remote_code: RemoteCode = False
    """whether to run code that comes with the checkpoint"""


class ContinuationTarget(TargetSection):
    """p ∝ π0(x)·π0(s|x), x of exactly max_new_tokens tokens: what comes before s."""

    builds = "klvi.targets.continuation:Continuation"
    name: Literal["continuation"]
    text: Annotated[Text, Field(min_length=1)] | None = " and then"
    """s; null: drawn from the prior for each prompt, with an exact sample of the target"""
    length: Size = 4
    """tokens of an s that is drawn"""
    fit_samples: Annotated[Size, Field(ge=2)] = 1024
    """samples of the prior, in all, among which each prompt's s is found"""


class EmpiricalTarget(TargetSection):
    """A file of texts: the target of supervised learning, known by samples alone."""

    builds = "klvi.targets.empirical:Empirical"
    name: Literal["empirical"]
    path: Annotated[Source, Remedy("a text per line, or JSON lines with text: {key}=FILE")]
    """a text per line; or JSON lines, JSON, CSV or Parquet with text, and prompt if any"""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of the texts that is kept from training, to measure the log-likelihood on"""

    @classmethod
    def capabilities(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """Nothing: samples tell no potential."""
        return frozenset()


class ProductTerm(Section):
    """A target of a product, with a reward and β of its own if any."""

    builds: ClassVar[str] = "klvi.targets.product:term"
    target: TargetSection
    reward: RewardSection | None = None
    """null: the run's"""
    beta: Annotated[float, Field(gt=0)] | None = None
    """null: the run's"""


class ProductTarget(TargetSection):
    """Several targets at once: their potentials are added."""

    builds = "klvi.targets.product:Product"
    name: Literal["product"]
    terms: dict[str, ProductTerm]
    """label: {target: {name: ...}, reward: null, beta: null}"""

    @model_validator(mode="after")
    def _multiplied(self) -> ProductTarget:
        problem = product_problem({label: term.target.name for label, term in self.terms.items()})
        if problem:
            raise ValueError(f"terms{problem}")
        for label, term in self.terms.items():
            reward = term.reward
            own = None if reward is None else reward.capabilities(reward.model_dump())
            for need in term.target.needs:
                if own is not None and need.group == "reward" and need.capability not in own:
                    raise ValueError(f"terms.{label}: {need.why}")
        return self

    @classmethod
    def capabilities(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """What all terms provide, whether they are sections or targets."""
        terms = values.get("terms")
        found = (
            [_capabilities(term) for term in terms.values()] if isinstance(terms, Mapping) else []
        )
        return frozenset.intersection(*found) if found else frozenset({POTENTIAL, FINITE_POTENTIAL})


def _capabilities(term: Any) -> frozenset[str]:
    """What a term of a product provides: as a raw section, or as the target itself."""
    if isinstance(term, Mapping):
        raw = term.get("target")
        section = section_of(TargetSection, raw)
    else:
        raw = getattr(term, "__dict__", {})
        section = member_for(TargetSection, term)
    if section is None or not issubclass(section, TargetSection) or not isinstance(raw, Mapping):
        return frozenset({POTENTIAL})
    return section.capabilities(raw)


# Why a target is no factor of a product, and what to do.
NO_FACTORS = {
    "product": "is a product itself; list its terms beside the others",
    "empirical": "has no potential that could be added; take it alone",
    "moments": "is fitted to the prior alone, and other factors move its means; take it alone, "
    "with target.constraint=true for a constraint",
    "forward_kl": "is normalised by a constant of the prior alone, which other factors change; "
    "take it alone",
}


def product_problem(names: Mapping[str, str]) -> str | None:
    """Why targets cannot be multiplied, given their names by the labels of the terms.

    Begins with the label, as in `.mine: …`; None where they can.
    """
    if not names:
        return ": has no term; add one, as in '+target.terms.mine={target: {name: posterior}}'"
    for label, name in names.items():
        if label in {"reward", "gold"} or not LABEL.fullmatch(label):
            return (
                f".{label}: a label names scores; use letters, digits, dots, dashes and "
                "underscores, and not 'reward' or 'gold', which are the run's"
            )
        if name in NO_FACTORS:
            return f".{label}: target={name} {NO_FACTORS[name]}"
    anchored = [label for label, name in names.items() if name == "anchored"]
    if len(anchored) > 1:
        return (
            f".{anchored[1]}: a second target=anchored would leave 1/π0 where both hold, which is "
            "no target; keep one, of a reward that says both"
        )
    return None
