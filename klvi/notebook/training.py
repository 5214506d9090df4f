"""Training in one call: as `klvi train` does it, without a folder."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, cast

from klvi.console import console
from klvi.engine.schema import EngineSection
from klvi.errors import UserError
from klvi.notebook.arguments import (
    ancestral_for,
    check_kind,
    check_needs,
    check_prior,
    check_sampler,
    check_target,
    contexts_for,
    on_device,
    placed_on,
    settings,
    warn_of,
)
from klvi.objectives.base import Objective
from klvi.objectives.schema import ObjectiveSection
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior
from klvi.policy.schema import LoraSection
from klvi.processes import current
from klvi.prompts.stream import PromptStream
from klvi.registry import member_for, name_of
from klvi.runs import groups
from klvi.runs.assembly import check_learning, checked_policy, loop_settings, optimiser_settings
from klvi.runs.choices import learning_rate
from klvi.runs.defaults import facts_of
from klvi.runs.schema import TrainConfig
from klvi.samplers.base import Sampler
from klvi.samplers.build import build_sampler
from klvi.samplers.schema import ProposalSection
from klvi.targets.base import Target
from klvi.targets.schema import TargetSection
from klvi.tracking.progress import UpdateProgress
from klvi.training.loop import Loop, Record
from klvi.training.optimisation import Optimisation
from klvi.training.schema import OptimSection


def train(
    prior: Prior,
    target: Target,
    objective: Objective,
    *,
    updates: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    prompts: Sequence[Any] | None = None,
    samples_per_prompt: int | None = None,
    proposal: Sampler | None = None,
    anneal: float | None = None,
    lora: LoraSection | Mapping[str, Any] | None = None,
    optim: OptimSection | Mapping[str, Any] | None = None,
    engine: EngineSection | Mapping[str, Any] | None = None,
    on_update: Callable[[dict[str, Any]], None] | None = None,
) -> Policy:
    """A policy on the prior, trained towards the target.

    The same weights, and the same choices where something is left out, as `klvi train` with these
    values. Nothing is written; a line moves where the standard error is a terminal or a notebook.

    Args:
        prior: of `klvi.load_prior`; it stays as it is.
        target: is fitted as in a run, where there is something to fit.
        objective: such as `klvi.objectives.KL()`; it stays as it is.
        updates: of the policy; None for the command's number, as with all that follows.
        batch_size: completions of an update.
        lr: the learning rate; None: chosen by the model's size.
        seed: of sampling and initialisation.
        prompts: texts, or dicts with `prompt` or `messages` and columns for the reward, a context
            each; None for none.
        samples_per_prompt: completions of a prompt in an update.
        proposal: what is learned from; None for the objective's own choice.
        anneal: share of the updates, 0 to 1, in which the target is tempered.
        lora: the adapter, as the keys of `lora`: `{"r": 8}`.
        optim: the optimizer, as the keys of `optim`.
        engine: what generates and scores, as the keys of `engine`.
        on_update: is called after each update with its record, as in `metrics.jsonl`.

    Raises UserError for what cannot be, in the words of the command line, and where training fails.
    """
    given = _checked(
        prior,
        target,
        objective,
        proposal,
        updates=updates,
        batch_size=batch_size,
        seed=seed,
        samples_per_prompt=samples_per_prompt,
        anneal=anneal,
        lora=lora,
        optim=_with_rate(optim, lr),
        engine=engine or {"name": "auto"},
    )
    if on_update is not None:
        check_kind("on_update", on_update, "__call__", "a function of a record")
    with on_device(prior):
        loop = _assembled(prior, target, copy.deepcopy(objective), proposal, prompts, given)
        check_learning(loop, loop.contexts.contexts, prior.support)
        if on_update is not None:
            loop.on_update.append(on_update)
        with _progress(objective.name, loop.settings.updates) as show:
            loop.on_update.append(show)
            loop.run()
        loop.check_policy()
    return loop.policy


def _with_rate(optim: OptimSection | Mapping[str, Any] | None, lr: float | None) -> Any:
    """The keys of `optim`, the learning rate among them; raises UserError where it is twice."""
    if lr is None or not isinstance(optim, Mapping | None):
        return optim
    if "lr" in (optim or {}):
        raise UserError("lr: is in optim, too; give it once")
    return {**(optim or {}), "lr": lr}


def _checked(
    prior: Prior, target: Target, objective: Objective, proposal: Sampler | None, **values: Any
) -> dict[str, Any]:
    """The values of the keys of `klvi train`, with the defaults of those that are None."""
    check_prior(prior)
    check_target(target)
    check_kind("objective", objective, "signals", "an objective, such as klvi.objectives.KL()")
    check_sampler("proposal", proposal)
    given = settings(TrainConfig, **values)
    sizes = {
        "objective.minibatches": objective.minibatches,
        "samples_per_prompt": given["samples_per_prompt"] or 1,
    }
    for key, size in sizes.items():
        if size > given["batch_size"]:
            raise UserError(f"{key}={size}: must be at most batch_size={given['batch_size']}")
    return given


def _assembled(
    prior: Prior,
    target: Target,
    objective: Objective,
    proposal: Sampler | None,
    prompts: Sequence[Any] | None,
    given: Mapping[str, Any],
) -> Loop:
    """The loop, with a value for everything that was left to be chosen."""
    section = member_for(ObjectiveSection, objective) or ObjectiveSection
    drawn = _default(section) if proposal is None else member_for(ProposalSection, proposal)
    wanted = member_for(TargetSection, target)
    check_needs({"objective": section, "target": wanted, "proposal": drawn}, target=target)
    contexts = contexts_for(prior, target, prompts)
    engine = EngineSection.model_validate(given["engine"])
    size = _group_size(section.model_construct(name=objective.name), len(contexts), given)
    ancestral = ancestral_for(prior, contexts, engine)
    policy = checked_policy(
        prior,
        given["lora"],
        seed=given["seed"],
        contexts=contexts,
        max_new_tokens=prior.support,
        engine=engine,
    )
    warn_of(policy, contexts)
    if objective.needs_values:
        policy.add_value_head()
    optim = given["optim"]
    if optim.lr is None:
        optim = optim.model_copy(update={"lr": learning_rate(facts_of(prior).parameters)})
    chosen = {**given, "engine": engine, "optim": optim}
    if proposal is None:
        assert drawn is not None, "found by its name"
        proposal = build_sampler(drawn.model_validate({"name": name_of(drawn)}), ancestral)
    return Loop(
        settings=loop_settings(TrainConfig.model_construct(**chosen)),
        policy=policy,
        objective=objective,
        target=target,
        proposal=placed_on(proposal, ancestral),
        ancestral=ancestral,
        contexts=PromptStream(contexts, given["seed"], size),
        optimisation=Optimisation(policy, optimiser_settings(optim), given["updates"]),
        processes=current(),
    )


def _default(section: type[ObjectiveSection]) -> type[ProposalSection]:
    """The section of what an objective draws from unless another is chosen."""
    found = (p for p in ProposalSection.members() if name_of(p) == section.proposal)
    return cast(type[ProposalSection], next(found))


def _group_size(section: ObjectiveSection, contexts: int, given: Mapping[str, Any]) -> int:
    """Completions of each prompt in an update; raises UserError where they are too few."""
    size, batch_size = given["samples_per_prompt"], given["batch_size"]
    if size is None:
        size = groups.samples_per_prompt(section, contexts, batch_size)
    groups.check_groups(section, contexts, size, batch_size)
    return int(size)


@contextlib.contextmanager
def _progress(name: str, updates: int) -> Iterator[Callable[[Record], None]]:
    """Within, what it gives shows each record, where somebody may be watching."""
    shown = console(sys.stderr)
    in_notebook = shown.is_jupyter and find_spec("ipywidgets") is not None
    if not (in_notebook or (shown.is_interactive and not shown.is_jupyter)):
        yield lambda record: None
        return
    with UpdateProgress(shown, name, updates, 0) as bar:
        yield bar.show
