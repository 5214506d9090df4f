"""A configuration assembled into objects: the only place that knows its sections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from klvi.contexts import Context
from klvi.engine.batching import Batching
from klvi.engine.build import build_engine
from klvi.engine.devices import allow_tf32, choose_device, use_device
from klvi.engine.memory import out_of_memory
from klvi.engine.schema import EngineSection
from klvi.engine.torch_engine import TorchEngine
from klvi.errors import UserError
from klvi.objectives.build import build_objective
from klvi.policy.enumerable import check_letters
from klvi.policy.fingerprint import fingerprint
from klvi.policy.foreign import load_foreign
from klvi.policy.gradient_check import check_gradients
from klvi.policy.loading import quiet_transformers
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior, load_prior
from klvi.policy.schema import EnumerableModelConfig, LoraSection
from klvi.policy.self_check import check_policy
from klvi.policy.text import lay_out
from klvi.prompts.contexts import load_contexts
from klvi.prompts.schema import FilePrompts, PromptsSection
from klvi.prompts.stream import PromptStream
from klvi.rewards.base import Reward, check_columns, of_rollout
from klvi.rewards.build import build_reward
from klvi.rewards.schema import RewardSection
from klvi.runs.choices import choose
from klvi.runs.defaults import choices_line, facts_of
from klvi.runs.evaluator import RunEvaluator, run_evaluator
from klvi.runs.groups import check_groups, samples_per_prompt
from klvi.runs.lock import FolderLock
from klvi.runs.manifest import Resumed, versions
from klvi.runs.run import CHECKPOINT_FOLDER, Run
from klvi.runs.schema import (
    OfRunConfig,
    PreferencesConfig,
    ProblemConfig,
    SampleConfig,
    TrainConfig,
)
from klvi.samplers.build import build_sampler
from klvi.targets.build import build_target
from klvi.tracking.build import build_tracker
from klvi.tracking.output import Output
from klvi.training.best import BestPolicy
from klvi.training.checkpoint import Checkpoints, Completed
from klvi.training.loop import Loop, LoopSettings
from klvi.training.optimisation import Optimisation, OptimiserSettings
from klvi.training.schema import OptimSection
from klvi.training.trl.trainer import trainer_for

C = TypeVar("C", bound=ProblemConfig)


def _gold(section: RewardSection, device: str, contexts: Sequence[Context]) -> Reward:
    """The reward of `gold`; its errors name keys of `gold`, and not of the run's reward."""
    try:
        gold = build_reward(section, device)
        check_columns(gold, contexts)
    except UserError as error:
        raise UserError(*(re.sub(r"^reward\b", "gold", p) for p in error.problems)) from error
    return gold


def assemble_run(
    config: TrainConfig,
    directory: Path,
    output: Output | None = None,
    *,
    lock: FolderLock | None = None,
    accepted: list[str] | None = None,
) -> Run:
    """A run in its folder, from its newest whole checkpoint or at the start; nothing is written.

    `accepted` is what has changed since the run began where it is resumed all the same.

    Raises UserError where the configuration asks for what is not there, or no fit reaches.
    """
    evaluator = assemble_evaluator(config, adapted=True)
    loop = assemble_loop(config, evaluator)
    asked, config = config, chosen_for(config, evaluator)
    check_learning(loop, evaluator.contexts.contexts, config.max_new_tokens)
    checkpoint = config.checkpoint
    checkpoints = Checkpoints(directory / CHECKPOINT_FOLDER, checkpoint.every, checkpoint.keep)
    restored = checkpoints.restore_latest(loop, accepted)
    best = BestPolicy(checkpoints.directory, checkpoint.best) if checkpoint.best else None
    checkpoints.check_room(loop, best=best is not None)
    if restored == 0:
        # What no fit reaches is refused while nothing is written.
        loop.fit()
    loop.optimisation.follow_schedule()
    # A record that no hook has finished with is written anew.
    logged = restored if loop.record is None else restored - 1
    output = output or Output()
    trainer = trainer_for(loop.objective)
    return Run(
        directory=directory,
        config=config.model_dump(mode="json"),
        facts=facts_of_run(loop.policy) | {"trainer": trainer.name},
        loop=loop,
        trainer=trainer,
        evaluator=evaluator,
        evaluate_every=config.evaluation.every,
        checkpoints=checkpoints,
        best=best,
        completed=Completed(loop),
        tracker=build_tracker(config.tracking, output, logged if restored else None),
        output=output,
        choices=choices_line(asked, config, loop.policy.prior),
        resumed=Resumed(restored, accepted or ()) if restored else None,
        lock=lock,
    )


def check_learning(loop: Loop, contexts: Sequence[Context], max_new_tokens: int) -> None:
    """Before the first update: gradients are as right as what is sampled and scored."""
    with out_of_memory("updating"):
        check_gradients(loop.policy, contexts, max_new_tokens, recompute=loop.settings.recompute)


def facts_of_run(policy: Policy) -> dict[str, Any]:
    """What the manifest holds of a run beside its configuration."""
    prior, engine = policy.prior, policy.engine
    device = str(prior.device)
    if prior.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(prior.device)})"
    return {
        "versions": versions(),
        "device": device,
        "engine": engine.name,
        "tokens_by_row": engine.by_row,
        "prior": fingerprint(prior) | {"commit": prior.commit},
    }


def assemble_evaluator(config: ProblemConfig, *, adapted: bool) -> RunEvaluator:
    """Prior, policy, reward, target and prompts; without `adapted` the policy is the prior.

    The evaluator's own `config` has a value for every key that was left to the model's size.

    Raises UserError for everything in the configuration that only loading can find out.
    """
    device = choose_device(config.device)
    use_device(device)
    allow_tf32(device)
    reward = build_reward(config.reward, device)
    loaded = load_contexts(config.prompts)
    check_columns(reward, loaded)
    gold = None if config.gold is None else _gold(config.gold, device, loaded)
    config = with_groups(config, len(loaded))
    check_rollouts(config, reward, len(loaded))
    if isinstance(config.model, EnumerableModelConfig):
        check_letters(loaded, config.model.letters)
    with out_of_memory("loading"):
        prior = load_prior(config.model, device, kernels=config.engine.kernels)
    prior, loaded = prompted(prior, loaded, config.prompts)
    size = config.samples_per_prompt if isinstance(config, TrainConfig) else None
    contexts = PromptStream(loaded, config.seed, size or 1)
    longest = prior.encode(contexts.contexts)[0].shape[1]
    prior.check_length(longest, config.max_new_tokens)
    config = choose(config, facts_of(prior), longest + config.max_new_tokens)
    policy = checked_policy(
        prior,
        config.lora if adapted else None,
        seed=config.seed,
        whole=_whole(config, prior, longest + config.max_new_tokens),
        contexts=contexts.contexts,
        max_new_tokens=config.max_new_tokens,
        engine=config.engine,
    )
    target = build_target(config.target, reward, config.beta, device, prior)
    for scorer in target.scorers.values():
        check_columns(scorer, loaded)
    evaluator = run_evaluator(config, policy, target, contexts, notes_on(policy, loaded), gold)
    if evaluator.enumeration is not None and not isinstance(
        config, SampleConfig | PreferencesConfig
    ):
        evaluator.enumeration.check_size()
    return evaluator


def _whole(config: ProblemConfig, prior: Prior, longest: int) -> PreTrainedModel | None:
    """The model at `policy.path`, where there is one."""
    path = config.policy.path if isinstance(config, OfRunConfig) else None
    if path is None:
        return None
    with out_of_memory("loading"):
        return load_foreign(prior, path, longest)


def checked_policy(
    prior: Prior,
    lora: LoraSection | None,
    *,
    seed: int,
    contexts: Sequence[Context],
    max_new_tokens: int,
    engine: EngineSection,
    whole: PreTrainedModel | None = None,
) -> Policy:
    """A fresh policy, or `whole` as one, whose numbers, in this engine, are those of plain passes.

    Raises UserError where they are not, and where the engine cannot run the model here.
    """
    longest = prior.encode(contexts)[0].shape[1] + max_new_tokens
    policy = Policy(prior, lora, seed, whole)
    policy.engine = build_engine(
        engine.name,
        prior.model,
        prior.tokenizer,
        title=prior.name,
        longest=longest,
        memory=engine.memory,
    )
    fallback = TorchEngine() if engine.name == "auto" else None
    # transformers tells at a model's first pass which kernels it does without.
    with out_of_memory("loading"), quiet_transformers():
        check_policy(policy, contexts, max_new_tokens, fallback)
    return policy


def prompted(
    prior: Prior, contexts: list[Context], prompts: PromptsSection
) -> tuple[Prior, list[Context]]:
    """The prior with the prompts' limit, and the contexts with chats laid out by its template."""
    if not isinstance(prompts, FilePrompts):
        return prior, contexts
    contexts = lay_out(prior.tokenizer, prior.name, contexts, prompts.chat)
    return replace(prior, max_prompt_tokens=prompts.max_tokens), contexts


def with_groups(config: C, contexts: int) -> C:
    """The configuration with the completions that each prompt gets in a rollout.

    Raises UserError where they are too few for the objective.
    """
    if not isinstance(config, TrainConfig):
        return config
    size = config.samples_per_prompt
    if size is None:
        size = samples_per_prompt(config.objective, contexts, config.batch_size)
    check_groups(config.objective, contexts, size, config.batch_size)
    return config.model_copy(update={"samples_per_prompt": size})


def check_rollouts(config: ProblemConfig, reward: Reward, contexts: int) -> None:
    """Raises UserError where a reward compares completions of a prompt, of which there is one."""
    single = isinstance(config, TrainConfig) and config.samples_per_prompt == 1
    if single and contexts > 1 and of_rollout(reward):
        raise UserError(
            f"samples_per_prompt=1 with {contexts} prompts: reward {reward.name} compares the "
            "completions of a prompt with each other; use such as samples_per_prompt=8"
        )


def notes_on(policy: Policy, contexts: Sequence[Context]) -> list[str]:
    """What the user should know before the run: what is cut, left out, or slower than usual."""
    notes = []
    cut = policy.prior.count_cut(contexts)
    if cut:
        notes.append(
            f"prompts.max_tokens={policy.prior.max_prompt_tokens}: the beginning of {cut} of "
            f"{len(contexts)} prompts is cut off; rewards read them whole"
        )
    notes += [
        f"lora.targets: {kind} has no adapter ({why})" for kind, why in policy.left_out.items()
    ]
    if policy.batching != Batching():
        notes.append(f"this model is decoded and scored {policy.batching}, which is slower")
    return notes


def assemble_loop(config: TrainConfig, evaluator: RunEvaluator) -> Loop:
    """The training loop on the evaluator's policy, with the objective and the optimizer."""
    config = chosen_for(config, evaluator)
    objective = build_objective(config.objective)
    if objective.needs_values:
        evaluator.policy.add_value_head()
    return Loop(
        settings=loop_settings(config),
        policy=evaluator.policy,
        objective=objective,
        target=evaluator.target,
        proposal=build_sampler(config.proposal, evaluator.ancestral),
        ancestral=evaluator.ancestral,
        contexts=evaluator.contexts,
        optimisation=Optimisation(
            evaluator.policy, optimiser_settings(config.optim), config.updates
        ),
        processes=evaluator.processes,
    )


def chosen_for(config: TrainConfig, evaluator: RunEvaluator) -> TrainConfig:
    """The configuration with a value for every key that was left to the model's size."""
    same = {
        key: getattr(evaluator.config, key) for key in ("model", "engine", "samples_per_prompt")
    }
    config = config.model_copy(update=same)
    return choose(config, facts_of(evaluator.policy.prior), config.max_new_tokens)


def loop_settings(config: TrainConfig) -> LoopSettings:
    """What the loop takes of a run's configuration."""
    return LoopSettings(
        updates=config.updates,
        batch_size=config.batch_size,
        seed=config.seed,
        anneal=config.anneal,
        scored_tokens=config.engine.micro_batch_tokens,
        learned_tokens=config.optim.micro_batch_tokens,
        recompute=config.optim.gradient_checkpointing,
    )


def optimiser_settings(optim: OptimSection) -> OptimiserSettings:
    """The optimizer's settings, whose learning rate is chosen."""
    assert optim.lr is not None, "chosen once the model is loaded"
    return OptimiserSettings(
        lr=optim.lr,
        algorithm=optim.algorithm,
        schedule=optim.schedule,
        warmup=optim.warmup,
        weight_decay=optim.weight_decay,
        beta2=optim.beta2,
        max_grad_norm=optim.max_grad_norm,
    )
