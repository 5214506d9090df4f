"""`gdc` on binary constraints of the enumerable prior, with and without the prior's samples.

    python scripts/gdc_defaults.py [--seeds 3] [--updates 300] [--batch-size 256] [key=value ...]

Trains on each constraint with plain defaults and with `proposal=policy`, both with the
further keys given. Prints per constraint its exact base rate, and over seeds the final exact
KL(p‖π), the policy's probability outside of p, KL(π(·|p's support)‖p), and the seconds of training
(evaluations excluded) and the updates until KL(p‖π) is at most 0.02. KL(π‖p) itself is infinite
while any probability lies outside. The floor is what KL(p‖π) no learner gets below where the
constraint has no structure, given what was sampled: see `unseen_floor`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from klvi.config.compose import composer, to_config
from klvi.contexts import Context
from klvi.evaluation.enumeration import ExactEvaluator
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.runs.assembly import assemble_evaluator, assemble_loop
from klvi.runs.schema import TrainConfig
from klvi.samplers.base import Sampler
from klvi.samples import Draw
from klvi.targets.base import Target
from klvi.training.loop import Loop

BOUND, NEAR, EVERY = 0.006, 0.02, 10
BASE_RATES = 0.02, 0.5
PROPOSALS = {"policy": ["proposal=policy"], "default": []}

Words = list[str]
Reward = Callable[[Sequence[str], Sequence[str]], list[float]]


def _where(holds: Callable[[Words], bool]) -> Reward:
    """A reward of 1 where a text's words meet a constraint, else 0."""
    return lambda texts, prompts: [float(holds(text.split())) for text in texts]


def _uniform(words: Words) -> float:
    digest = hashlib.sha256(" ".join(words).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


contains_c = _where(lambda words: "c" in words)
no_d_two_or_more = _where(lambda words: "d" not in words and len(words) >= 2)
ends_in_a = _where(lambda words: words[-1:] == ["a"])
even_length = _where(lambda words: len(words) % 2 == 0)
three_alike = _where(lambda words: any(words.count(word) >= 3 for word in words))
long_without_repeats = _where(
    lambda words: len(words) >= 4 and all(a != b for a, b in itertools.pairwise(words))
)
does_not_begin_with_a = _where(lambda words: words[:1] != ["a"])
far_modes = _where(lambda words: words[:1] in (["b"], ["d"]) or words[-2:] == ["c", "b"])
sum_divisible_by_5 = _where(lambda words: sum(map(ord, words)) % 5 == 0)
random_tenth = _where(lambda words: _uniform(words) < 0.1)

CONSTRAINTS = (
    "contains_c",
    "no_d_two_or_more",
    "ends_in_a",
    "even_length",
    "three_alike",
    "long_without_repeats",
    "does_not_begin_with_a",
    "far_modes",
    "sum_divisible_by_5",
    "random_tenth",
)


@dataclass(frozen=True)
class Result:
    """How a run ended; `seconds` and `updates` to KL(p‖π) ≤ 0.02, None where never."""

    forward: float
    outside: float
    inside: float
    floor: float
    seconds: float | None
    updates: int | None


def assembled(name: str, overrides: Sequence[str]) -> tuple[Loop, ExactEvaluator]:
    """The loop of `gdc` on the enumerable prior under the constraint `name`, and exact values."""
    fixed = ["model=enumerable", "objective=gdc", "target=constraint", "reward=python"]
    fixed += [f"reward.function={Path(__file__).resolve()}:{name}", "device=cpu", "threads=1"]
    with composer("train") as hydra:
        config = to_config("train", hydra.compose([*fixed, *overrides]))
    assert isinstance(config, TrainConfig)
    evaluator = assemble_evaluator(config, adapted=True)
    assert evaluator.enumeration is not None, "model=enumerable"
    return assemble_loop(config, evaluator), evaluator.enumeration


def base_rate(exact: ExactEvaluator) -> float:
    """The prior's exact probability of meeting the constraint."""
    return float(exact.log_targets(0)[0].exp().sum())


@dataclass
class Watched(Sampler):
    """A proposal whose texts are kept; on the enumerable prior each stands for one sequence."""

    proposal: Sampler
    texts: set[str] = field(default_factory=set)

    def sample(
        self, policy: Policy, target: Target, contexts: Sequence[Context], randomness: Randomness
    ) -> Draw:
        draw = self.proposal.sample(policy, target, contexts, randomness)
        self.texts.update(draw.samples.texts)
        return draw


def unseen_floor(exact: ExactEvaluator, seen: set[str]) -> float:
    """Nats of KL(p‖π) that the sequences cost which training has not seen.

    Where nothing but the sequence itself tells whether it meets the constraint, one that was never
    drawn meets it with the base rate's probability: the best guess of p there is too low by that
    factor.
    """
    log_target = exact.log_targets(0)[0]
    unseen = torch.tensor([text not in seen for text in exact.scored(0).texts])
    mass = (log_target - log_target.logsumexp(0)).exp()[unseen].sum()
    return float(mass) * -math.log(base_rate(exact))


def divergences(exact: ExactEvaluator) -> tuple[float, float, float]:
    """Exact KL(p‖π), π's probability outside of p, and KL(π‖p) of π given p's support; nats."""
    log_target = exact.log_targets(0)[0]
    support = log_target.isfinite()
    log_target = (log_target - log_target.logsumexp(0))[support]
    log_policy = exact.log_policy()[support]
    log_inside = log_policy.logsumexp(0)
    forward = (log_target.exp() * (log_target - log_policy)).sum()
    given = log_policy - log_inside
    inside = (given.exp() * (given - log_target)).sum()
    return float(forward), -math.expm1(float(log_inside)), float(inside)


def trained(loop: Loop, exact: ExactEvaluator) -> Result:
    """Train to the end, with exact values every few updates."""
    near: tuple[float, int] | None = None
    watched = Watched(loop.proposal)
    loop.proposal = watched
    values = divergences(exact)
    while loop.update < loop.settings.updates:
        loop.step()
        if loop.update % EVERY == 0 or loop.update == loop.settings.updates:
            values = divergences(exact)
            if near is None and values[0] <= NEAR:
                near = loop.seconds, loop.update
    return Result(*values, unseen_floor(exact, watched.texts), *(near or (None, None)))


def row(name: str, rate: float, proposal: str, results: Sequence[Result]) -> str:
    """A line of the table; ranges are over seeds."""
    forward = [result.forward for result in results]
    times = [f"{r.seconds:.1f} ({r.updates})" if r.seconds else "—" for r in results]
    cells = [
        name,
        f"{rate:.3f}",
        proposal,
        ", ".join(f"{value:.4f}" for value in forward),
        ", ".join(f"{result.floor:.4f}" for result in results),
        f"{max(result.outside for result in results):.4f}",
        f"{max(result.inside for result in results):.4f}",
        ", ".join(times),
        "yes" if max(forward) <= BOUND else "no",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    sizes = [f"updates={options.updates}", f"batch_size={options.batch_size}"]
    print(
        "| constraint | base rate | proposal | KL(p‖π) | floor | outside of p, largest "
        "| KL(π‖p) inside, largest | seconds (updates) to 0.02 | all ≤ 0.006 |"
    )
    print("|" + "---|" * 9)
    for name in CONSTRAINTS:
        results: dict[str, list[Result]] = {proposal: [] for proposal in PROPOSALS}
        for seed in range(options.seeds):
            for proposal, keys in PROPOSALS.items():
                overrides = [*sizes, *options.overrides, f"seed={seed}", *keys]
                loop, exact = assembled(name, overrides)
                rate = base_rate(exact)
                assert BASE_RATES[0] <= rate <= BASE_RATES[1], f"{name}: {rate:.3g}"
                results[proposal].append(trained(loop, exact))
        for proposal, found in results.items():
            print(row(name, rate, proposal, found), flush=True)


if __name__ == "__main__":
    main()
