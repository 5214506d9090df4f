"""How many completions a prompt gets in a rollout. Nothing here imports torch."""

from __future__ import annotations

from klvi.errors import UserError
from klvi.objectives.schema import ObjectiveSection

# Completions of a prompt in a rollout, where Z is estimated from them: at most, and what a divisor
# of the batch is preferred to down from.
MAX_GROUP, MIN_DIVISOR = 8, 4


def samples_per_prompt(objective: ObjectiveSection, contexts: int, batch_size: int) -> int:
    """Completions of each prompt in a rollout of `batch_size`, of `contexts` prompts.

    1, the most prompts, unless the objective estimates something of each prompt from its samples.
    """
    if contexts == 1 or not objective.needs_groups:
        return 1
    largest = min(MAX_GROUP, batch_size)
    divisors = [n for n in range(MIN_DIVISOR, largest + 1) if batch_size % n == 0]
    return max(divisors, default=largest)


def check_groups(objective: ObjectiveSection, contexts: int, size: int, batch_size: int) -> None:
    """Raises UserError where groups of `size` completions are too small for the objective."""
    if size == 1 and contexts > 1 and objective.needs_groups:
        better = samples_per_prompt(objective, contexts, batch_size)
        raise UserError(
            f"samples_per_prompt=1 with {contexts} prompts: objective={objective.name} "
            "weighs each sample by the others of its prompt; use samples_per_prompt="
            f"{better}, or null to have it chosen"
        )
