"""What a notebook's calls are given, checked before anything is computed."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from pydantic import BaseModel

from klvi.config.values import validate
from klvi.contexts import Context
from klvi.engine.schema import EngineSection
from klvi.errors import UserError
from klvi.policy.enumerable import check_letters
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior
from klvi.policy.schema import EnumerableModelConfig
from klvi.policy.text import lay_out
from klvi.prompts.contexts import contexts_of_prompts
from klvi.prompts.schema import FilePrompts
from klvi.rewards.base import check_columns
from klvi.runs.assembly import notes_on
from klvi.runs.choices import completions_at_once
from klvi.runs.defaults import facts_of
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.schema import Choice, plain
from klvi.targets.base import Target

S = TypeVar("S", bound=BaseModel)
IS_MISSING = ": is missing"
# Keys that are arguments of another name, where their section is not told apart by a prefix.
ARGUMENTS = {
    EnumerableModelConfig: {"seed": "model_seed"},
    FilePrompts: {"max_tokens": "max_prompt_tokens"},
}


def settings(schema: type[BaseModel], **given: Any) -> dict[str, Any]:
    """The values of a command's keys, by name: those that are None are the schema's defaults.

    Sections are given as mappings, or as they are. Raises UserError with a line for each that is
    wrong, in the words of the command line, but for the names of `ARGUMENTS`.
    """
    raw = {key: _plain(value) for key, value in given.items() if value is not None}
    wrong = [line for line in validate(schema, raw).problems if IS_MISSING not in line]
    if wrong:
        names = ARGUMENTS.get(schema, {})
        keys = [line.partition("=")[0] for line in wrong]
        pairs = zip(keys, wrong, strict=True)
        raise UserError(*(names.get(key, key) + line[len(key) :] for key, line in pairs))
    found = {}
    for key in given:
        field = schema.model_fields[key]
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            found[key] = type(default).model_validate(raw.get(key, {}))
        else:
            found[key] = raw.get(key, default)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Mapping):
        return {key: _plain(below) for key, below in value.items()}
    return plain(value)


def check_kind(name: str, given: object, attribute: str, remedy: str) -> None:
    """Raises UserError where an argument is not what has `attribute`."""
    if isinstance(given, type) or not hasattr(given, attribute):
        kind = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        raise UserError(f"{name}: is {kind}; give {remedy}")


def check_prior(prior: object) -> None:
    """Raises UserError for what is no prior."""
    if not isinstance(prior, Prior):
        raise UserError(f"prior: is {type(prior).__name__}; give what klvi.load_prior returns")


def check_target(target: object) -> None:
    """Raises UserError for what is no target."""
    check_kind(
        "target", target, "log_potential", "a target, such as klvi.targets.Posterior(reward, beta)"
    )


def check_sampler(name: str, sampler: object) -> None:
    """Raises UserError for what is neither a sampler nor None."""
    if sampler is not None:
        check_kind(name, sampler, "sample", "a sampler, such as klvi.samplers.Ancestral()")


def check_needs(chosen: Mapping[str, type[Choice] | None], **things: object) -> None:
    """Raises UserError where a choice needs what the choice of another group does not provide.

    `things` are what was chosen, by group, where a group's capabilities depend on it.
    """
    for group, section in chosen.items():
        for need in section.needs if section is not None else ():
            other = chosen.get(need.group)
            if other is None:
                continue
            values = getattr(things.get(need.group), "__dict__", {})
            if need.capability not in other.capabilities(values):
                raise UserError(f"{group} with this {need.group}: {need.why}")


def contexts_for(prior: Prior, target: Target, prompts: Sequence[Any] | None) -> list[Context]:
    """A context per prompt, as the prior reads it and the target's rewards score it.

    Raises UserError where one of them cannot.
    """
    contexts = lay_out(prior.tokenizer, prior.name, contexts_of_prompts(prompts), {})
    if prior.name == "enumerable":
        check_letters(contexts, letters_of(prior))
    for reward in target.scorers.values():
        check_columns(reward, contexts)
    prior.check_length(int(prior.encode(contexts)[0].shape[1]), prior.support)
    return contexts


def letters_of(prior: Prior) -> int:
    """The letters of an enumerable prior, which are numbered below the end token."""
    return prior.stop_token_ids[0]


def ancestral_for(prior: Prior, contexts: Sequence[Context], engine: EngineSection) -> Ancestral:
    """Sampling of the policy itself, as many completions at once as a command decodes."""
    at_once = engine.batch_size
    if at_once is None:
        longest = int(prior.encode(contexts)[0].shape[1]) + prior.support
        at_once = completions_at_once(facts_of(prior), longest)
    return Ancestral(prior.support, at_once, engine.micro_batch_tokens)


def warn_of(policy: Policy, contexts: Sequence[Context]) -> None:
    """Warn, in the notebook's own line, of what is cut, left out, or slower than usual."""
    for note in notes_on(policy, contexts):
        warnings.warn(note, stacklevel=4)


def placed_on(sampler: Sampler, ancestral: Ancestral) -> Sampler:
    """A sampler of its own, by `ancestral` sampling unless it was given another."""
    if sampler == Ancestral():
        return ancestral
    sampler = copy.copy(sampler)
    if getattr(sampler, "ancestral", None) == Ancestral():
        object.__setattr__(sampler, "ancestral", ancestral)  # of a frozen dataclass, too
    return sampler


@contextlib.contextmanager
def on_device(prior: Prior) -> Iterator[None]:
    """Within, the prior's GPU is the current one: streams, graphs and libraries take that."""
    if prior.device.type != "cuda":
        yield
        return
    with torch.cuda.device(prior.device):
        yield
