"""`klvi verify`: hold theory against what this installation measures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from klvi.commands.context import Context
from klvi.errors import UserError
from klvi.files import new_folder_problem
from klvi.runs.folder import claimed
from klvi.terminal import tell
from klvi.verification.schema import VerifyConfig

if TYPE_CHECKING:
    from klvi.tracking.output import Output
    from klvi.verification.claim import Claim
    from klvi.verification.training import Trained

PLOT, LOG = "convergence.png", "verify.log"


def run(config: VerifyConfig, context: Context) -> int:
    """Train, compare, print the table and draw the plot; returns 1 where a claim fails."""
    out = context.directory or Path(config.out)
    problem = new_folder_problem(str(out))
    if problem:
        raise UserError(f"out={out}: {problem}")
    with claimed(out, "out", tell):
        return _verify(config, out)


def _verify(config: VerifyConfig, out: Path) -> int:
    from klvi.tracking.output import Output
    from klvi.verification.claim import claim_tables

    started = time.perf_counter()
    output = Output()
    output.copy_to(out / LOG)
    trained = _train(config, out, output)
    claims = list(_claims(config, trained))
    for part in claim_tables(claims):
        output.print(part)
    _plot(config, trained, out / PLOT)
    failed = sum(not claim.passed for claim in claims)
    verdict = f"{failed} of {len(claims)} claims failed" if failed else f"{len(claims)} claims hold"
    output.print(f"{verdict}; {time.perf_counter() - started:.0f} seconds")
    output.print(f"{out / PLOT}")
    return 1 if failed else 0


def _train(config: VerifyConfig, out: Path, output: Output) -> dict[str, Trained]:
    from klvi.verification.training import OBJECTIVES, train

    trained = {}
    for objective in OBJECTIVES:
        started = time.perf_counter()
        trained[objective] = train(config, objective, out / objective)
        seconds = time.perf_counter() - started
        output.print(f"objective={objective}: {config.updates} updates in {seconds:.0f} seconds")
    return trained


def _claims(config: VerifyConfig, trained: Mapping[str, Trained]) -> Iterator[Claim]:
    from klvi.verification.controls import negative_controls
    from klvi.verification.dissociation import double_dissociation
    from klvi.verification.estimates import calibrations, estimators
    from klvi.verification.identities import identities
    from klvi.verification.space import Space
    from klvi.verification.training import standstill

    records = {name: run.records for name, run in trained.items()}
    policies = {name: run.log_policy for name, run in trained.items()}
    space = Space.of(trained["kl"].enumeration)
    yield from double_dissociation(records)
    evaluators = [trained[name].evaluator for name in ("kl", "gdc")]
    yield from estimators(list(calibrations(evaluators, config.repetitions)))
    yield standstill(config)
    yield from identities(space, policies)
    yield from negative_controls(space)


def _plot(config: VerifyConfig, trained: Mapping[str, Trained], file: Path) -> None:
    from klvi.reports.convergence import Curve, plot_convergence

    curves = {
        name: Curve(
            updates=[record["update"] for record in run.records],
            kl_reverse=[record["exact/kl_target_reverse"] for record in run.records],
            kl_forward=[record["exact/kl_target_forward"] for record in run.records],
            entropy=[record["exact/entropy"] for record in run.records],
        )
        for name, run in trained.items()
    }
    entropy = trained["kl"].records[0]["exact/target/entropy"]
    title = f"Exact values on model=enumerable, reward={config.reward.name}, β = {config.beta:g}"
    plot_convergence(curves, entropy, title, file)
