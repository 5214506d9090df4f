"""How often the 95% intervals of klvi's metrics hold the exact value.

    python scripts/coverage.py [--repetitions 400] [--samples 500]

Trains gdc on the enumerable prior, for graded and binary targets: not at all, a little, near to the
target, and to the end.
Of each policy it draws sets of samples over and over, with as many of the prior beside them as an
evaluation takes, measures every set as `klvi eval` does, and counts the intervals that hold the
exact value. A metric that an evaluation refuses counts neither way; how often stands in brackets.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from klvi.config.compose import composer, to_config
from klvi.evaluation.enumeration import ExactEvaluator
from klvi.evaluation.plan import PRIOR_SAMPLES, Plan
from klvi.metrics import text
from klvi.metrics.evaluate import evaluate
from klvi.metrics.intervals import Estimate
from klvi.metrics.measurement import Measurement
from klvi.runs.assembly import assemble_evaluator, assemble_loop
from klvi.runs.schema import TrainConfig
from klvi.samplers.ancestral import token_scores
from klvi.samples import Draw, Samples
from klvi.targets.base import Target
from klvi.training.loop import Loop
from klvi.verification.estimates import holds

UPDATES = (0, 8, 80, 400)
TARGETS = {
    "graded, β 0.1": ["reward=letters", "beta=0.1"],
    "graded, β 0.3": ["reward=letters", "beta=0.3"],
    "binary": ["reward=contains", "reward.text=b", "target=constraint"],
}


@dataclass(frozen=True)
class Space:
    """All sequences as samples, and their exact probabilities under policy and prior."""

    samples: Samples
    log_policy: Tensor
    log_prior: Tensor

    def draw(self, log_probs: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`(count,)` rows drawn with probabilities `log_probs.exp()`."""
        return torch.multinomial(log_probs.exp(), count, replacement=True, generator=generator)


def training(overrides: list[str]) -> tuple[Loop, ExactEvaluator]:
    """gdc on the enumerable prior."""
    fixed = ["experiment=enumerable", "objective=gdc", "threads=1", "device=cpu", "anneal=0"]
    with composer("train") as hydra:
        config = to_config("train", hydra.compose([*fixed, *overrides]))
    assert isinstance(config, TrainConfig)
    evaluator = assemble_evaluator(config, adapted=True)
    assert evaluator.enumeration is not None
    return assemble_loop(config, evaluator), evaluator.enumeration


def space(loop: Loop, exact: ExactEvaluator) -> Space:
    """The policy as it is now."""
    listed = exact.scored(0)
    every = replace(listed, **token_scores(loop.policy, listed, distributions=True))
    return Space(every, exact.log_policy(), exact.log_prior)


def measured(
    found: Space, target: Target, beta: float, sizes: tuple[int, int], repetitions: int
) -> Iterator[tuple[str, Measurement | None]]:
    """Every metric of every repetition; None where it was refused."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(repetitions):
        own = found.samples.select(found.draw(found.log_policy, sizes[0], generator))
        prior = found.samples.select(found.draw(found.log_prior, sizes[1], generator))
        metrics = evaluate(
            Draw(own),
            target.log_unnormalised(own),
            beta=beta,
            prior_samples=replace(prior, entropy=None, kl=None),
            prior_log_target=target.log_unnormalised(prior),
        )
        for name, metric in metrics.items():
            yield name, metric if isinstance(metric, Measurement) else None


def coverage(loop: Loop, exact: ExactEvaluator, samples: int, repetitions: int) -> dict[str, str]:
    """Per metric the share of intervals that hold the exact value."""
    sizes = (samples, PRIOR_SAMPLES)
    exact = replace(exact, plan=Plan(1, *sizes))
    truth = exact.evaluate(loop.update)
    held: dict[str, list[bool]] = defaultdict(list)
    refused: dict[str, int] = defaultdict(int)
    found = space(loop, exact)
    for name, metric in measured(found, loop.target, loop.target.beta, sizes, repetitions):
        value = truth.get(name)
        if metric is None:
            refused[name] += 1
        elif isinstance(value, float):
            held[name].append(holds(metric, value))
    cells = {name: f"{100 * sum(hits) / len(hits):.1f}" for name, hits in held.items()}
    for name, count in refused.items():
        cells[name] = f"{cells.get(name, '—')} ({100 * count / repetitions:.0f})"
    return cells


def within(columns: dict[str, dict[str, str]]) -> str:
    """How many of the shares lie between 92 and 98%."""
    cells = [cell.split()[0] for column in columns.values() for cell in column.values()]
    shares = [float(cell) for cell in cells if cell != "—"]
    inside = sum(92 <= share <= 98 for share in shares)
    return f"{inside} of {len(shares)} between 92 and 98%"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--samples", type=int, default=500)
    options = parser.parse_args()
    # It has no exact value, and would take most of the time.
    cheap = Estimate(0.5, 0.1, options.samples, options.samples - 1.0)
    text.self_bleu_estimate = lambda *_: cheap
    columns: dict[str, dict[str, str]] = {}
    for label, overrides in TARGETS.items():
        loop, exact = training(overrides)
        for updates in UPDATES:
            while loop.update < updates:
                loop.step()
            columns[f"{label}, {updates} updates"] = coverage(
                loop, exact, options.samples, options.repetitions
            )
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    print("| " + " | ".join(["% of intervals", *columns]) + " |")
    print("|" + "---|" * (len(columns) + 1))
    for name in names:
        cells = [column.get(name, "—") for column in columns.values()]
        print("| " + " | ".join([name.removeprefix("eval/"), *cells]) + " |")
    print(f"\n{within(columns)}")


if __name__ == "__main__":
    main()
