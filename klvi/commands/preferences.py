"""`klvi preferences`: pairs of completions, labelled by a reward with Bradley-Terry noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from klvi.commands.context import Context
from klvi.errors import UserError
from klvi.files import naming, new_file_problem, write_whole
from klvi.runs.schema import PreferencesConfig

if TYPE_CHECKING:
    from klvi.evaluation.evaluator import Evaluator
    from klvi.training.preferences import Pair

# Draws, each of what the ones before left, after which a prompt's completions are taken as equal.
MAX_DRAWS = 20


def run(config: PreferencesConfig, context: Context) -> int:
    """Write `n` pairs as JSON lines to `out`, and print how far the labels follow the reward."""
    problem = new_file_problem(config.out, overwrite=config.overwrite)
    if problem:
        raise UserError(f"out={config.out}: {problem}")

    from rich.text import Text

    from klvi.rewards.scoring import score
    from klvi.runs.load import load_policy
    from klvi.tracking.output import Output, warning
    from klvi.training.preferences import bayes_rate, margins_of

    evaluator, source = load_policy(config)
    output = Output()
    for note in evaluator.notes:
        output.print(warning(note))
    pairs, equal = labelled(evaluator, config.n, config.temperature, config.seed)
    file = Path(config.out).expanduser()
    with naming(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, "".join(f"{pair.to_json()}\n" for pair in pairs), replace=config.overwrite)
    margins = margins_of(pairs)
    assert margins is not None, "every pair is scored"
    ties = int((margins == 0).sum())
    output.print(Text(f"{config.n:,} pairs of {source} in {file}"))
    output.print(
        Text(
            f"chosen has the larger reward in {float((margins > 0).double().mean()):.1%}, the same "
            f"in {ties / config.n:.1%}; Bayes rate of the labels at temperature "
            f"{config.temperature:g}: {bayes_rate(margins, config.temperature):.1%}"
        )
    )
    if evaluator.gold is not None:
        contexts = evaluator.contexts.first(config.n)
        chosen = score(evaluator.gold, [pair.chosen for pair in pairs], contexts, update=0)
        rejected = score(evaluator.gold, [pair.rejected for pair in pairs], contexts, update=0)
        share = float((chosen > rejected).double().mean())
        output.print(Text(f"chosen has the larger gold in {share:.1%}"))
    if equal:
        output.print(Text(f"{equal:,} pairs of equal completions were drawn again", style="dim"))
    if ties == config.n:
        output.print(warning("the reward tells no pair apart: all labels are a coin's"))
    return 0


def labelled(
    evaluator: Evaluator, count: int, temperature: float, seed: int
) -> tuple[list[Pair], int]:
    """`count` pairs, of the contexts in their order, over and over; and how many were redrawn.

    Raises UserError where the completions of some prompt never differ.
    """
    import torch

    from klvi.randomness import Randomness
    from klvi.samplers.sharded import sample_sharded
    from klvi.training.preferences import Pair, preferred

    contexts = evaluator.contexts.first(count)
    coins = Randomness("preference labels", (seed,), 0).uniforms(torch.arange(count), 1)[:, 0]
    found: dict[int, Pair] = {}
    redrawn = 0
    for draw in range(MAX_DRAWS):
        missing = [row for row in range(count) if row not in found]
        if not missing:
            break
        redrawn += len(missing) if draw else 0
        samples = sample_sharded(
            evaluator.processes,
            evaluator.sampler or evaluator.ancestral,
            evaluator.policy,
            evaluator.target,
            [contexts[row] for row in missing for _ in range(2)],
            Randomness("preferences", (seed, draw), 0),
        ).samples
        rewards = samples.reward.double().cpu()
        first = coins[missing] < preferred(rewards[0::2] - rewards[1::2], temperature)
        for place, row in enumerate(missing):
            a, b = 2 * place, 2 * place + 1
            if samples.texts[a] == samples.texts[b]:
                continue
            chosen, rejected = (a, b) if first[place] else (b, a)
            found[row] = Pair(
                contexts[row].prompt,
                samples.texts[chosen],
                samples.texts[rejected],
                (float(rewards[chosen]), float(rewards[rejected])),
            )
    if len(found) < count:
        row = next(row for row in range(count) if row not in found)
        raise UserError(
            f"{contexts[row].title}: in {MAX_DRAWS} draws both completions were the same text; "
            "raise max_new_tokens, or take a prior or prompts with more to say"
        )
    return [found[row] for row in range(count)], redrawn
