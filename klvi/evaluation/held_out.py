"""How probable given texts are: what is known of a target that is a file of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from klvi.contexts import Context
from klvi.errors import UserError
from klvi.metrics import estimators
from klvi.metrics.intervals import interval
from klvi.metrics.measurement import Metric
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior
from klvi.policy.text import encode_after
from klvi.samples import Completions
from klvi.targets.base import Target


def held_out(
    policy: Policy, target: Target, max_new_tokens: int | None, confidence: float
) -> dict[str, Metric]:
    """`eval/held_out` and `eval/held_out_prior`: E[log π(x)] and E[log π0(x)] of held-out texts.

    Nats per sequence, the end-of-sequence token included; of a text that has more than
    `max_new_tokens` tokens, those are a whole sequence. Nothing for a target without such texts.

    Raises UserError where the prior has no tokens for a text.
    """
    if not target.held_out_texts:
        return {}
    limit = max_new_tokens or policy.prior.support
    completions = encoded(policy.prior, target.held_out_texts, limit)
    found: dict[str, Metric] = {}
    for name, model in (("held_out", policy), ("held_out_prior", policy.without_adapter())):
        values = model.log_probs(completions).double().sum(1).cpu()
        found[f"eval/{name}"] = interval(estimators.mean(values), confidence, high=0.0)
    return found


def encoded(prior: Prior, pairs: Sequence[tuple[Context, str]], limit: int) -> Completions:
    """Texts with their end, at most `limit` tokens of each, after what they complete."""
    contexts = [context for context, _ in pairs]
    prompts, prompt_lengths = prior.encode(contexts)
    prior.check_length(prompts.shape[1], limit)
    end = prior.stop_token_ids[0]
    rows = []
    for context, text in pairs:
        try:
            tokens = encode_after(prior.tokenizer, prior.name, context.prompt, text)
        except UserError as error:
            raise UserError(f"target.path: text {str(error).removeprefix('prompt ')}") from error
        rows.append([*tokens, end][:limit])
    lengths = torch.tensor(list(map(len, rows)))
    width = int(lengths.max())
    padded = torch.tensor([[*row, *[end] * (width - len(row))] for row in rows])
    device = prior.device
    return Completions(prompts, prompt_lengths, padded.to(device), lengths.to(device))
