"""What a command knows beside its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Context:
    """Where a job runs and what the user typed.

    Attributes:
        directory: the job's own folder, which exists; None for a single job of a command that has
            none (all but `train`).
        job_number: the number of the job in its multirun, from 0; None in a single run.
        sweep_directory: the folder of the multirun; None in a single run.
        overrides: what was set on the command line, such as `("objective=rl", "beta=0.3")`.
    """

    directory: Path | None
    job_number: int | None
    sweep_directory: Path | None
    overrides: tuple[str, ...]
