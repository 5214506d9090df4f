"""With prompts, of which an evaluation measures a few, the split's intervals cover.

Over 150 repeated evaluations an interval of 95% misses more than 10% of the time with a probability
of 0.4%; seeds are fixed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from toy import between, condition, graded_gold, graded_reward, problem, random_toy, sequences

from klvi.contexts import Context
from klvi.metrics import text
from klvi.metrics.evaluate import evaluate
from klvi.metrics.exact import averaged
from klvi.metrics.intervals import Estimate
from klvi.metrics.measurement import Measurement
from klvi.metrics.tilting import tilt_within_kl
from klvi.samples import Draw, Samples

BETA, PROMPTS, MEASURED, SAMPLES, REPETITIONS = 0.8, 40, 8, 64, 150
SPACE = sequences()
REWARD, GOLD = graded_reward(SPACE), graded_gold(SPACE)
NAMES = (
    *("target/gold", "target/gold_best", "target/kl_prior", "target/log_chi2", "target/entropy"),
    *("eval/misspecified", "eval/badly_approximated"),
)


def made(seed: int):
    prior = random_toy(seed, 1.0 + 0.5 * (seed % 2))
    policy = between(prior, condition(prior, REWARD / BETA, SPACE), 0.5)
    return problem(policy, prior, REWARD, REWARD / BETA, GOLD)


@pytest.mark.slow
def test_intervals_cover_the_mean_over_prompts_of_which_some_are_drawn(monkeypatch):
    cheap = Estimate(0.5, 0.1, SAMPLES, SAMPLES - 1.0)
    monkeypatch.setattr(text, "self_bleu_estimate", lambda *_: cheap)
    cases = [made(100 + prompt) for prompt in range(PROMPTS)]
    log_prior = torch.stack([case.log_prior.sum(1) for case in cases])
    density = torch.stack([case.log_target for case in cases]).log_softmax(1)
    distance = float((density.exp() * (density - log_prior)).sum(1).mean())
    place = torch.arange(PROMPTS).repeat_interleave(len(SPACE))
    tilt = tilt_within_kl(GOLD.repeat(PROMPTS), log_prior.flatten(), place, distance)
    monkeypatch.setattr(type(cases[0]), "tilt", lambda _: tilt)
    truth = averaged([case.exact(BETA) for case in cases])

    generator, found = torch.Generator().manual_seed(0), defaultdict(list)

    def drawn(chosen: list[int], of: str) -> Samples:
        parts = []
        for prompt in chosen:
            rows = cases[prompt].draw(getattr(cases[prompt], of), SAMPLES, generator)
            contexts = [Context(prompt, str(prompt))] * SAMPLES
            parts.append(replace(cases[prompt].samples(rows), contexts=contexts))
        return Samples.concatenate(parts)

    for _ in range(REPETITIONS):
        chosen = torch.randperm(PROMPTS, generator=generator)[:MEASURED].tolist()
        samples, prior = (drawn(chosen, of) for of in ("log_policy", "log_prior"))
        log_target, log_target_of_prior = (
            part.log_prior_sequence + part.reward.double() / BETA for part in (samples, prior)
        )
        metrics = evaluate(
            Draw(samples),
            log_target,
            beta=BETA,
            prior_samples=prior,
            prior_log_target=log_target_of_prior,
            contexts=PROMPTS,
        )
        for name in NAMES:
            found[name].append(metrics[name])
    for name in NAMES:
        measured = [metric for metric in found[name] if isinstance(metric, Measurement)]
        assert len(measured) > 0.9 * REPETITIONS, name
        missed = sum(not metric.low <= truth[name] <= metric.high for metric in measured)
        assert missed <= 0.1 * REPETITIONS, (name, missed)
