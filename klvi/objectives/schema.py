"""The objectives and their keys."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from klvi.schema import Section


class PPOSection(Section):
    """Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347)."""

    needs_groups: ClassVar[bool] = False
    name: str
    epochs: Annotated[int, Field(ge=1)] = 4
    minibatches: Annotated[int, Field(ge=1)] = 1
    clip: Annotated[float, Field(gt=0)] = 0.2
    value_clip: Annotated[float, Field(gt=0)] | None = 0.2
    value_coefficient: Annotated[float, Field(ge=0)] = 0.1
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 1.0
    soft_values: bool = True
    renew_penalty: bool = True
    whiten_advantages: bool = False
    centre_rewards: bool = True
    kl_stop: Annotated[float, Field(gt=0)] | None = None


class RLObjective(PPOSection):
    """Expected reward alone, by PPO: the objective that collapses."""

    name: Literal["rl"]


class KLObjective(PPOSection):
    """Expected reward minus β·KL(π‖π0), by PPO: reverse KL to the posterior."""

    name: Literal["kl"]


class GDCObjective(Section):
    """Forward KL to the target by distributional policy gradients."""

    needs_groups: ClassVar[bool] = True
    name: Literal["gdc"]
    proposal: Literal["policy", "adaptive", "mixture"] = "policy"
    prior_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    baseline: bool = True
    divergence: Literal["kl", "tv"] = "kl"
    epochs: Annotated[int, Field(ge=1)] = 1
    minibatches: Annotated[int, Field(ge=1)] = 1


Objective = Annotated[RLObjective | KLObjective | GDCObjective, Field(discriminator="name")]
