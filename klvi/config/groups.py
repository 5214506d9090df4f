"""How many completions a prompt gets in a rollout and in an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from klvi.config.schema import EvaluationSection, Objective
from klvi.errors import UserError

# Completions of a prompt in a rollout, where Z is estimated from them: at most, and what a divisor
# of the batch is preferred to down from.
MAX_GROUP, MIN_DIVISOR = 8, 4
# An evaluation's defaults: without prompts, and with them.
SAMPLES, PRIOR_SAMPLES = 512, 1024
PROMPTS, SAMPLES_PER_PROMPT = 24, 64
MIN_SAMPLES = 2


def samples_per_prompt(objective: Objective, contexts: int, batch_size: int) -> int:
    """Completions of each prompt in a rollout of `batch_size`, of `contexts` prompts.

    1, the most prompts, unless the objective estimates something of each prompt from its samples.
    """
    if contexts == 1 or not objective.needs_groups:
        return 1
    largest = min(MAX_GROUP, batch_size)
    divisors = [n for n in range(MIN_DIVISOR, largest + 1) if batch_size % n == 0]
    return max(divisors, default=largest)


def check_groups(objective: Objective, contexts: int, size: int, batch_size: int) -> None:
    """Raises UserError where groups of `size` completions are too small for the objective."""
    if size == 1 and contexts > 1 and objective.needs_groups:
        better = samples_per_prompt(objective, contexts, batch_size)
        raise UserError(
            f"rollout.samples_per_prompt=1 with {contexts} prompts: objective={objective.name} "
            "weighs each sample by the others of its prompt; use rollout.samples_per_prompt="
            f"{better}, or null to have it chosen"
        )


@dataclass(frozen=True)
class Plan:
    """What an evaluation draws.

    Attributes:
        contexts: prompts measured.
        samples: of the policy, per prompt.
        prior_samples: of the prior, per prompt.
    """

    contexts: int
    samples: int
    prior_samples: int


def evaluation_plan(settings: EvaluationSection, rows: int) -> Plan:
    """How an evaluation of `rows` prompts divides its samples.

    `samples` and `prior_samples` are totals. Without `prompts` and `samples_per_prompt`, a total
    goes to as many prompts as can have 64 each, at most 24.
    """
    total = settings.samples
    if rows == 1:
        samples = total or settings.samples_per_prompt or SAMPLES
        return Plan(1, samples, settings.prior_samples or PRIOR_SAMPLES)
    each = settings.samples_per_prompt
    contexts = settings.prompts
    if contexts is None:
        affordable = PROMPTS if total is None else max(total // (each or SAMPLES_PER_PROMPT), 2)
        contexts = affordable if total is not None and each else min(affordable, PROMPTS)
    contexts = min(contexts, rows)
    if each is None:
        each = SAMPLES_PER_PROMPT if total is None else max(total // contexts, MIN_SAMPLES)
    prior = settings.prior_samples
    return Plan(contexts, each, each if prior is None else max(prior // contexts, MIN_SAMPLES))
