"""`klvi eval`: measure a run's policy anew, or a prior alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from klvi.commands.context import Context
from klvi.errors import UserError
from klvi.files import naming, new_file_problem, to_json, write_whole
from klvi.runs.schema import EvalConfig
from klvi.runs.stored import read_config

EVAL_FILE = "eval.json"


def run(config: EvalConfig, context: Context) -> int:
    """Print the table of metrics and write it, with the configuration behind it, as JSON."""
    file = _file(config, context)
    # The evaluation in a run's own folder is klvi's to renew.
    renew = config.overwrite or (config.out is None and config.run is not None)
    problem = new_file_problem(config.out or str(file), overwrite=renew)
    if problem:
        raise UserError(f"out={config.out or file}: {problem}")

    from rich.text import Text

    from klvi.engine.memory import out_of_memory
    from klvi.runs.defaults import choices_line
    from klvi.runs.load import load_policy
    from klvi.runs.manifest import versions
    from klvi.tracking.output import Output, warning
    from klvi.tracking.tables import evaluation_report

    evaluator, source = load_policy(config)
    output = Output()
    chosen = selection_note(config.run, config.evaluation.seed)
    for note in [*evaluator.notes, *([chosen] if chosen else [])]:
        output.print(warning(note))
    choices = choices_line(config, evaluator.config, evaluator.policy.prior)
    if choices:
        output.print(Text(choices, style="dim"))
    with out_of_memory("evaluating"):
        evaluation = evaluator.evaluate(0)
    for part in evaluation_report(evaluation, source, config.evaluation.confidence):
        output.print(part)
    report = {
        "policy": source,
        "metrics": {name: metric.to_json() for name, metric in evaluation.metrics.items()},
        **({"exact": evaluation.exact} if evaluation.exact else {}),
        **({"info": dict(evaluation.info)} if evaluation.info else {}),
        **({"path": _path(evaluation.path)} if evaluation.path else {}),
        "config": evaluator.config.model_dump(mode="json"),
        "versions": versions(),
    }
    with naming(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, to_json(report, indent=2) + "\n", replace=renew)
    output.print(Text(f"{file}", style="dim"))
    return 0


def selection_note(run: str | None, seed: int) -> str | None:
    """A line where a run chose its policy by the very samples that are to measure it."""
    from klvi.runs.run import ADAPTER_FOLDER

    # Without a final adapter it is the last policy that is measured.
    if run is None or not (Path(run).expanduser() / ADAPTER_FOLDER).is_dir():
        return None
    stored = read_config(Path(run).expanduser())
    best = stored.get("checkpoint", {}).get("best")
    chosen_on = stored.get("evaluation", {}).get("seed")
    if best is None or seed != chosen_on:
        return None
    return (
        f"the policy was chosen by {best} on the samples of evaluation.seed={seed}, which flatter "
        f"it; evaluation.seed={seed + 1} draws fresh ones"
    )


def _path(sizes: Mapping[float, float]) -> dict[str, float]:
    """Effective samples of the prior by the share of the way to the target."""
    return {f"{share:g}": size for share, size in sizes.items()}


def _file(config: EvalConfig, context: Context) -> Path:
    if config.out is not None:
        return Path(config.out).expanduser()
    # A job of a sweep has a folder of its own: several could measure the same run.
    folder = context.directory or (Path(config.run).expanduser() if config.run else Path())
    return folder / EVAL_FILE
