"""A run's policy, read back from its folder."""

from __future__ import annotations

from pathlib import Path

from klvi.errors import UserError
from klvi.files import MANIFEST, kind_of
from klvi.files.checksums import damage
from klvi.quoting import command
from klvi.runs.assembly import assemble_evaluator
from klvi.runs.evaluator import RunEvaluator
from klvi.runs.run import ADAPTER_FOLDER, CHECKPOINT_FOLDER
from klvi.runs.schema import OfRunConfig
from klvi.runs.stored import read_config
from klvi.runs.target_state import restored_target
from klvi.terminal import tell
from klvi.training.checkpoint import Checkpoints
from klvi.training.fitting import fit_to_prior

# What a target is made of, and what it is fitted on.
DEFINING = ("target", "reward", "beta", "prompts")


def load_policy(config: OfRunConfig) -> tuple[RunEvaluator, str]:
    """An evaluator of the run's policy, or of the prior without a run; and what it is of.

    Raises UserError where the run has not yet saved a policy.
    """
    if config.run is None:
        evaluator = assemble_evaluator(config, adapted=False)
        fit_to_prior(evaluator, config.seed)
        path = config.policy.path
        return evaluator, f"prior {config.model.name}" if path is None else path
    run = Path(config.run).expanduser()
    folder = find_adapter(run)
    evaluator = assemble_evaluator(config, adapted=True)
    if _of_its_target(config, run):
        evaluator.aim(restored_target(evaluator.target, run))
    else:
        fit_to_prior(evaluator, config.seed)
    evaluator.policy.load_adapter(folder)
    return evaluator, str(folder)


def _of_its_target(config: OfRunConfig, run: Path) -> bool:
    """Whether what is measured against is what the run aimed at, and was fitted there."""
    asked, stored = config.model_dump(mode="json"), read_config(run)
    return all(asked[key] == stored.get(key) for key in DEFINING)


def find_adapter(run: Path) -> Path:
    """The folder of a run's final adapter, or of its newest whole checkpoint.

    The user is told what is damaged. Raises UserError where nothing is whole.
    """
    final = run / ADAPTER_FOLDER
    kind = kind_of(final)
    problem = None
    if kind is not None:
        required = kind_of(run / MANIFEST) is not None
        problem = damage(final, required=required) if kind == "a folder" else f"{final} is {kind}"
        if problem is None:
            return final
    newest = Checkpoints(run / CHECKPOINT_FOLDER).newest_whole()
    if newest is None:
        raise UserError(
            f"run={run}: has neither a final adapter nor a checkpoint; {command('resume', run=run)}"
            if problem is None
            else f"run={run}: {problem}, and there is no checkpoint"
        )
    if problem is not None:
        tell(f"warning: {problem}: {newest.name} is taken instead")
    return newest
