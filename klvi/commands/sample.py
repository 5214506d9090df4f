"""`klvi sample`: texts of a run's policy, or of a prior, with rewards and log-probabilities."""

from __future__ import annotations

from pathlib import Path

from klvi.commands.context import Context
from klvi.errors import UserError
from klvi.files import naming, new_file_problem, to_json, write_whole
from klvi.runs.schema import SampleConfig


def run(config: SampleConfig, context: Context) -> int:
    """Print `n` samples as a table, or write them as JSON lines to `out`."""
    problem = config.out and new_file_problem(config.out, overwrite=config.overwrite)
    if problem:
        raise UserError(f"out={config.out}: {problem}")

    from rich.text import Text

    from klvi.runs.load import load_policy
    from klvi.tracking.base import sample_rows
    from klvi.tracking.output import Output, warning
    from klvi.tracking.tables import sample_table

    evaluator, source = load_policy(config)
    samples = evaluator.draw(config.n, config.seed, 0)
    output = Output()
    for note in evaluator.notes:
        output.print(warning(note))
    if config.out is None:
        output.print(sample_table(samples, title=source))
        return 0
    file = Path(config.out).expanduser()
    with naming(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{to_json(row)}\n" for row in sample_rows(samples))
    write_whole(file, lines, replace=config.overwrite)
    output.print(Text(f"{config.n} samples of {source} in {file}"))
    return 0
