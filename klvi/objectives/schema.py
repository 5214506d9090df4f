"""The objectives and their keys."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from klvi.samplers.schema import ON_POLICY
from klvi.schema import Choice, Need
from klvi.targets.schema import FINITE_POTENTIAL, POTENTIAL

KNOWN = Need(
    "target",
    POTENTIAL,
    "the target is known by samples alone, and this objective needs its log P; klvi eval measures "
    "against it, or choose another target",
)


class ObjectiveSection(Choice):
    """INFERENCE by training.

    Attributes:
        needs_groups: whether something is estimated of each prompt from its own samples.
        proposal: what it draws from unless another is chosen; its YAML file says the same.
    """

    group_name = "objective"
    needs: ClassVar[tuple[Need, ...]] = (KNOWN,)
    needs_groups: ClassVar[bool] = False
    proposal: ClassVar[str] = "policy"


class PPOSection(ObjectiveSection):
    """Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347)."""

    needs: ClassVar[tuple[Need, ...]] = (
        KNOWN,
        Need("proposal", ON_POLICY, "PPO learns from the policy as it is; use proposal=policy"),
    )
    epochs: Annotated[int, Field(ge=1)] = 4
    """passes over a rollout"""
    minibatches: Annotated[int, Field(ge=1)] = 1
    """optimizer steps of a pass"""
    clip: Annotated[float, Field(gt=0)] = 0.2
    """largest change of a token's probability ratio that is followed"""
    value_clip: Annotated[float, Field(gt=0)] | None = 0.2
    """largest change of a value that is followed; null: any"""
    value_coefficient: Annotated[float, Field(ge=0)] = 0.1
    """weight of the value head's loss"""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 1.0
    """1: advantages from whole returns, 0: from one step"""
    soft_values: bool = True
    """whether values start from the soft value, which is exact at the posterior; of kl alone"""
    renew_penalty: bool = True
    """whether later passes over a rollout penalise the policy as it is by then; of kl alone, where
    advantages are not whitened"""
    whiten_advantages: bool = False
    """whether advantages are divided by their standard deviation"""
    centre_rewards: bool = True
    """whether rewards count from the first rollout's mean, in units of its spread if above 1"""
    kl_stop: Annotated[float, Field(gt=0)] | None = None
    """nats from the rollout's policy at which its passes end; null: never"""


class RLObjective(PPOSection):
    """Expected reward alone, by PPO with TRL's defaults: the objective that collapses.

    Its keys' defaults are those of TRL's PPO with a KL coefficient of 0, where whitened rewards and
    a penalty for a missing end are off. What `kl` has instead makes advantages vanish at the
    target; whitening amplifies their noise once all is rewarded, and the policy drifts.
    """

    builds = "klvi.objectives.ppo:RL"
    name: Literal["rl"]
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    soft_values: bool = False
    renew_penalty: bool = False
    whiten_advantages: bool = True
    centre_rewards: bool = False


class KLObjective(PPOSection):
    """Expected reward minus β·KL(π‖π0), by PPO: reverse KL to the target."""

    builds = "klvi.objectives.ppo:KL"
    needs: ClassVar[tuple[Need, ...]] = (
        KNOWN,
        Need(
            "target",
            FINITE_POTENTIAL,
            "reverse KL to a hard constraint is infinite; use objective=gdc, or target=posterior "
            "with a small beta",
        ),
        *PPOSection.needs,
    )
    name: Literal["kl"]


class GDCObjective(ObjectiveSection):
    """Forward KL to the target by distributional policy gradients."""

    builds = "klvi.objectives.gdc:GDC"
    needs_groups: ClassVar[bool] = True
    proposal: ClassVar[str] = "mixture"
    name: Literal["gdc"]
    baseline: bool = True
    """whether the policy's own probability is subtracted from each weight"""
    epochs: Annotated[int, Field(ge=1)] = 1
    """passes over a rollout"""
    minibatches: Annotated[int, Field(ge=1)] = 1
    """optimizer steps of a pass"""
