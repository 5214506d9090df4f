"""How an evaluation divides its samples among prompts. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from klvi.evaluation.schema import EvaluationSection

# An evaluation's defaults: without prompts, and with them.
SAMPLES, PRIOR_SAMPLES = 512, 1024
PROMPTS, SAMPLES_PER_PROMPT = 24, 64
MIN_SAMPLES = 2


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
