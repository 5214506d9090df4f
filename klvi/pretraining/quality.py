"""How good a pretrained prior is: its losses and its samples, beside what the grammar knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from klvi.pretraining.fit import PretrainingReport, mean_and_error, sample_tokens
from klvi.pretraining.grammar import Grammar
from klvi.tracking.pretraining import Quantity

MAX_SAMPLE = 48
Events = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class PriorQuality:
    """Measured quantities of a prior, and the samples behind some of them."""

    quantities: list[Quantity]
    samples: list[str]


def measure(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    report: PretrainingReport,
    samples: int,
    seed: int,
    grammar: Grammar | None = None,
    events: Events | None = None,
) -> PriorQuality:
    """Losses on held-out texts, and what `samples` samples of the model are like.

    With the grammar of the texts its exact values stand beside them: `events` maps a name to words
    any of which makes the event.
    """
    rows = sample_tokens(model, tokenizer, samples, MAX_SAMPLE, seed)
    texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
    ended = [row[-1] == tokenizer.eos_token_id for row in rows]
    lengths = [float(len(row)) for row in rows]
    quantities = [
        *_losses(report, grammar),
        _mean(f"samples ended within {MAX_SAMPLE} tokens", ended),
        _mean("tokens of a sample", lengths),
    ]
    if grammar:
        told = [grammar.derivations(text) > 0 for text in texts]
        quantities.append(_mean("samples that the grammar tells", told, 1.0))
        for event, words in (events or {}).items():
            happened = [any(word in text for word in words) for text in texts]
            quantities.append(_mean(f"samples with {event}", happened, grammar.rate(words)))
    return PriorQuality(quantities, texts)


def _losses(report: PretrainingReport, grammar: Grammar | None) -> list[Quantity]:
    quantities = [
        Quantity(
            "held-out loss, nats per text",
            *report.loss_text,
            grammar.entropy() if grammar else None,
        ),
        Quantity("held-out loss, nats per token", *report.loss_token),
    ]
    if grammar:
        excess = report.losses + log_probabilities(grammar, report.held_out)
        quantities.append(
            Quantity("KL(grammar‖prior), nats per text", *mean_and_error(excess), 0.0)
        )
    return quantities


def log_probabilities(grammar: Grammar, texts: list[str]) -> Tensor:
    """`(M,)` log p of each text under the grammar, nats.

    Added to a model's losses, they give the excess, whose mean KL(grammar‖model) is known far more
    precisely than the mean loss.
    """
    return torch.tensor([grammar.log_probability(text) for text in texts], dtype=torch.float64)


def _mean(name: str, values: list[bool] | list[float], exact: float | None = None) -> Quantity:
    return Quantity(name, *mean_and_error(torch.tensor(values)), exact)
