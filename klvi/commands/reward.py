"""`klvi reward`: an ensemble of Bradley-Terry reward models, trained on preference pairs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from klvi.commands.context import Context
from klvi.commands.schema import RewardModelConfig
from klvi.errors import UserError
from klvi.files import new_folder_problem, room_problem, to_json, whole_folder
from klvi.quoting import typed

if TYPE_CHECKING:
    from torch import Tensor

    from klvi.policy.prior import Prior
    from klvi.rewards.classifier import Classifier
    from klvi.tracking.output import Output
    from klvi.training.preferences import Pair
    from klvi.training.trl.reward import OnStep, RewardSettings

FEWEST_PAIRS = 20
RECORD = "reward.json"
# Of all weights the best learning rate is a quarter of a LoRA adapter's on the small priors.
FULL_LR = 0.25


def run(config: RewardModelConfig, context: Context) -> int:
    """Train, measure on held-out pairs, and write a folder that appears only when it is whole."""
    out = Path(config.out).expanduser()
    problem = new_folder_problem(config.out)
    if problem:
        raise UserError(f"out={out}: {problem}")

    from rich.text import Text

    from klvi.engine.devices import allow_tf32, choose_device, use_device
    from klvi.engine.memory import out_of_memory
    from klvi.policy.prior import load_prior
    from klvi.reports.calibration import plot_calibration
    from klvi.runs.manifest import versions
    from klvi.tracking.output import Output
    from klvi.tracking.reward import reward_table
    from klvi.training.held_out import EnsembleHeldOut
    from klvi.training.preferences import margins_of

    begin = time.monotonic()
    train, held_out = split(_pairs(config), config.held_out, config.seed)
    device = choose_device(config.device)
    use_device(device)
    allow_tf32(device)
    with out_of_memory("loading"):
        prior = load_prior(config.model, device, kernels="none")
    size = sum(p.nbytes for p in prior.plain.parameters())
    problem = room_problem(out, config.ensemble * size)
    if problem:
        raise UserError(f"out={problem}")
    output, settings = Output(), settings_of(config, prior)
    with whole_folder(out) as folder, out_of_memory("training"):
        margins = train_members(config, prior, settings, (train, held_out), folder, output)
        result = EnsembleHeldOut.of(margins, margins_of(held_out))
        plot_calibration(result, out.name, folder / "calibration.png")
        summary = {
            "status": "finished",
            "pairs": {"train": len(train), "held_out": len(held_out)},
            **result.to_json(),
            "lr": settings.lr,
            "config": config.model_dump(mode="json"),
            "versions": versions(),
            "seconds": time.monotonic() - begin,
        }
        # Not summary.json, which makes a folder a run's.
        (folder / RECORD).write_text(to_json(summary, indent=2) + "\n", encoding="utf-8")
    output.print(reward_table(result, f"{len(held_out):,} held-out pairs"))
    output.print(Text(f"{out}: use it as reward=model {typed('reward.path', out)}"))
    return 0


def _pairs(config: RewardModelConfig) -> list[Pair]:
    from klvi.training.preferences import read_pairs

    pairs = read_pairs(config.data)
    if len(pairs) < FEWEST_PAIRS:
        raise UserError(
            f"data={config.data}: has {len(pairs)} pairs, some of which are held out; give at "
            f"least {FEWEST_PAIRS}"
        )
    return pairs


def split(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on, and a `share` of all, at least two, that is held out; `seed` tells."""
    import torch

    from klvi.randomness import seeded_generator

    order = torch.randperm(len(pairs), generator=seeded_generator("held-out pairs", seed)).tolist()
    held_out = min(max(round(share * len(pairs)), 2), len(pairs) - 1)
    return [pairs[i] for i in order[held_out:]], [pairs[i] for i in order[:held_out]]


def repeated(train: Sequence[Pair], held_out: Sequence[Pair]) -> int:
    """How many held-out pairs have the same two completions of the same prompt as one trained on.

    The labels may differ. What is measured with them is no test of what a model has not seen.
    """
    seen = {(pair.prompt, frozenset((pair.chosen, pair.rejected))) for pair in train}
    return sum((p.prompt, frozenset((p.chosen, p.rejected))) in seen for p in held_out)


def settings_of(config: RewardModelConfig, prior: Prior) -> RewardSettings:
    """How each member is trained, the learning rate by the prior's size where it is not given."""
    from klvi.policy.adapters import adapter_config
    from klvi.policy.loading import quiet_transformers
    from klvi.runs.choices import learning_rate
    from klvi.training.trl.reward import RewardSettings

    suited = learning_rate(sum(p.numel() for p in prior.plain.parameters()))
    lora = None
    if not config.full:
        with quiet_transformers():
            lora, _ = adapter_config(prior.plain, config.lora)
    return RewardSettings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr or (suited * FULL_LR if config.full else suited),
        lora=lora,
    )


def train_members(
    config: RewardModelConfig,
    prior: Prior,
    settings: RewardSettings,
    pairs: tuple[Sequence[Pair], Sequence[Pair]],
    folder: Path,
    output: Output,
) -> list[Tensor]:
    """Train each member on the first of `pairs`, and save it under its number in `folder`.

    Returns each one's margins `(N,)` on the second, the held-out pairs.
    """
    from klvi.tracking.output import warning
    from klvi.tracking.pretraining import PretrainingProgress
    from klvi.training.reward_model import margins, tokens

    train, held_out = pairs
    tokens(prior, held_out)  # what cannot be read is told before anything is trained
    encoded = tokens(prior, train)
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    output.print(
        f"{len(train):,} pairs, {steps:,} steps of {settings.batch_size} with "
        f"{'all weights' if settings.lora is None else f'LoRA r={config.lora.r}'}, "
        f"lr={settings.lr:g}; {len(held_out):,} pairs are held out"
    )
    again = repeated(train, held_out)
    if again:
        output.print(warning(f"{again:,} of {len(held_out):,} held-out pairs are trained on, too"))
    found = []
    with PretrainingProgress(output, steps * config.ensemble, "nats per pair") as progress:
        for member in range(config.ensemble):
            show = partial(progress.show_after, member * steps)
            reader = trained_member(config, prior, encoded, settings, member, show)
            found.append(margins(reader, held_out))
            save(reader, folder / str(member))
    return found


def trained_member(
    config: RewardModelConfig,
    prior: Prior,
    encoded: tuple[list[list[int]], list[list[int]]],
    settings: RewardSettings,
    member: int,
    on_step: OnStep,
) -> Classifier:
    """A member, trained; its number tells its head, adapter, order of pairs and bootstrap sample.

    Raises UserError where its weights are not finite.
    """
    import torch

    from klvi.policy.loading import check_finite
    from klvi.randomness import seeded_generator
    from klvi.training.reward_model import reading, untrained
    from klvi.training.trl.reward import train_reward_model

    generator = seeded_generator("reward model", config.seed, member)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    chosen, rejected = encoded
    if config.bootstrap:
        rows = torch.randint(len(chosen), (len(chosen),), generator=generator).tolist()
        chosen, rejected = [chosen[row] for row in rows], [rejected[row] for row in rows]
    trusted = getattr(config.model, "trust_remote_code", False)
    model = untrained(prior, seed, trust_remote_code=trusted)
    model = train_reward_model(model, prior.tokenizer, chosen, rejected, settings, seed, on_step)
    check_finite(model, f"lr={settings.lr:g}: reward model {member}")
    return reading(model, prior, config.batch_size)


def save(reader: Classifier, folder: Path) -> None:
    """Write a plain Hugging Face folder of a sequence classifier and its tokenizer."""
    from klvi.policy.loading import quiet_transformers

    with quiet_transformers():
        reader.model.save_pretrained(folder)
        reader.tokenizer.save_pretrained(folder)
