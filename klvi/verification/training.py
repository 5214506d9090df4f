"""The three runs behind the claims: ordinary `klvi train` runs, in folders of their own."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from klvi.evaluation.enumeration import ExactEvaluator
from klvi.evaluation.evaluator import Evaluator
from klvi.objectives.schema import GDCObjective, KLObjective, ObjectiveSection, RLObjective
from klvi.runs.assembly import assemble_evaluator, assemble_loop, assemble_run
from klvi.runs.schema import TrainConfig
from klvi.tracking.output import Output
from klvi.verification.claim import Claim
from klvi.verification.schema import VerifyConfig

SECTIONS: dict[str, type[ObjectiveSection]] = {
    "rl": RLObjective,
    "kl": KLObjective,
    "gdc": GDCObjective,
}
OBJECTIVES = tuple(SECTIONS)
STILL_UPDATES = 2


@dataclass(frozen=True)
class Trained:
    """A finished run: the records of its evaluations, and log π(x) of all sequences at its end."""

    records: Sequence[Mapping[str, Any]]
    log_policy: Tensor
    evaluator: Evaluator

    @property
    def enumeration(self) -> ExactEvaluator:
        """What gives its exact values."""
        return enumeration_of(self.evaluator)


def train_config(config: VerifyConfig, objective: str, **changes: object) -> TrainConfig:
    """What `klvi train objective=…` would be given."""
    shared = config.model_dump(exclude={"out", "repetitions"})
    return TrainConfig.model_validate(
        {
            **shared,
            "name": objective,
            "objective": {"name": objective},
            "target": {"name": "posterior"},
            "prompts": {"name": "none"},
            "tracking": {"name": "none"},
            "proposal": {"name": SECTIONS[objective].proposal},
            "engine": {"name": "torch", "batch_size": config.batch_size},
            "checkpoint": {"every": config.updates},
            **changes,
        }
    )


def train(config: VerifyConfig, objective: str, folder: Path) -> Trained:
    """Run `objective` in `folder`, its console in `run.log` alone."""
    folder.mkdir(parents=True)
    run = assemble_run(train_config(config, objective), folder, Output(Console(file=io.StringIO())))
    run.train()
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if "exact/log_z" in record]
    return Trained(records, enumeration_of(run.evaluator).log_policy(), run.evaluator)


def enumeration_of(evaluator: Evaluator) -> ExactEvaluator:
    """The enumeration behind an evaluator's exact values."""
    assert evaluator.enumeration is not None, "verify takes enumerable priors alone"
    return evaluator.enumeration


def standstill(config: VerifyConfig) -> Claim:
    """Fact 9: without a learning rate every log-ratio stays 0."""
    still = config.optim.model_copy(update={"lr": 0.0})
    changes = {"optim": still.model_dump(), "updates": STILL_UPDATES}
    trained = train_config(config, "kl", **changes)
    evaluator = assemble_evaluator(trained, adapted=True)
    enumeration = enumeration_of(evaluator)
    assemble_loop(trained, evaluator).run()
    ratio = float(torch.abs(enumeration.log_policy() - enumeration.log_prior).max())
    return Claim(
        "Identities",
        f"log π − log π0 after {STILL_UPDATES} updates at learning rate 0",
        "= 0 for every sequence",
        f"at most {ratio:.1e}",
        ratio == 0.0,
    )
