"""How an evaluation divides its samples among prompts. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

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

    contexts: int = 1
    samples: int = SAMPLES
    prior_samples: int = PRIOR_SAMPLES


def evaluation_plan(
    rows: int,
    *,
    samples: int | None = None,
    prior_samples: int | None = None,
    prompts: int | None = None,
    samples_per_prompt: int | None = None,
) -> Plan:
    """How an evaluation of `rows` prompts divides its samples.

    `samples` and `prior_samples` are totals. Without `prompts` and `samples_per_prompt`, a total
    goes to as many prompts as can have 64 each, at most 24.
    """
    if rows == 1:
        return Plan(1, samples or samples_per_prompt or SAMPLES, prior_samples or PRIOR_SAMPLES)
    each, contexts = samples_per_prompt, prompts
    if contexts is None:
        affordable = PROMPTS if samples is None else max(samples // (each or SAMPLES_PER_PROMPT), 2)
        contexts = affordable if samples is not None and each else min(affordable, PROMPTS)
    contexts = min(contexts, rows)
    if each is None:
        each = SAMPLES_PER_PROMPT if samples is None else max(samples // contexts, MIN_SAMPLES)
    if prior_samples is not None:
        prior_samples = max(prior_samples // contexts, MIN_SAMPLES)
    return Plan(contexts, each, prior_samples or each)
