"""Whether klvi's fast way through a model gives the numbers of the model itself.

A prior is decoded step by step with a cache, its rows shared and reordered, its prompts padded; a
policy has its adapter merged for that, and scores completions in padded batches. Here a few
sequences go that way, at the lengths of a run, and through plain forward passes of transformers
and peft. The judge is what plain passes differ by among themselves (`klvi.policy.reference`):
rounding that a model amplifies, it amplifies in both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from klvi.contexts import Context
from klvi.engine.base import Engine
from klvi.engine.batching import ARRANGEMENTS, Batching
from klvi.engine.memory import is_out_of_memory
from klvi.engine.torch_engine import TorchEngine
from klvi.engine.views import view_of
from klvi.errors import RunError, UserError, described
from klvi.policy.adapter_check import wrong_layer
from klvi.policy.adapters import adapt
from klvi.policy.policy import Policy
from klvi.policy.prior import with_kernels
from klvi.policy.reference import plain_log_probs, plain_spread, prefix_log_prob
from klvi.policy.sequences import Completed, Prompts, checked_prompts, complete

# How many times further from a plain pass klvi's may be than plain passes are from each other. 145
# architectures, random and small, stay below 1 in bfloat16, and in float32 where rounding of
# log-softmax is allowed for.
TOLERANCE = 3.0
# Spacings of float32 within which the same logits give other log-probabilities.
SPACINGS = 8.0
STRETCHES = 4
# How much a random adapter changes a weight, relatively.
CHANGE = 0.5
LOW = {torch.bfloat16, torch.float16}
# On a CPU: weights of a model of 16 bits that is checked in float32, too.
MAX_COPY_BYTES = 2**29


class UnableError(Exception):
    """An arrangement of passes that the model cannot run in, or that gives other numbers."""


@dataclass(frozen=True)
class Agreement:
    """Absolute differences from plain passes, nats per token, of R sequences of T tokens.

    Attributes:
        view: "prior" or "policy".
        spread: `(R, K, T)` of K plain passes.
        prefixes: `(R, C)` of plain passes that end before the token, at C places.
        decoded: `(R, 1, T)` of decoding; None where the engine tells no log-probabilities.
        scored: `(R, 1, T)` of the padded batch.
        floor: what float32 cannot tell apart.
    """

    view: str
    spread: Tensor
    prefixes: Tensor
    decoded: Tensor | None
    scored: Tensor
    floor: float

    @property
    def problem(self) -> str | None:
        """What is further from plain passes than they are from each other; None where nothing."""
        limits = [TOLERANCE * value + self.floor for value in profile(self.spread)]
        for name, part in (("decoding", self.decoded), ("scoring", self.scored)):
            if part is None:
                continue
            # Not less, rather than more: NaN is a problem.
            if any(not value <= limit for value, limit in zip(profile(part), limits, strict=True)):
                return (
                    f"{name} the {self.view} is off by {float(part.mean()):.2g} nats a token, "
                    f"plain passes among themselves by {float(self.spread.mean()):.2g}"
                )
        return None

    @property
    def is_causal(self) -> bool:
        """Whether no token's probability depends on what follows it."""
        return float(self.prefixes.mean()) <= TOLERANCE * float(self.spread.mean()) + self.floor


def profile(differences: Tensor) -> list[float]:
    """Mean, median, 90% quantile and worst stretch of `(R, K, T)` differences, nats per token.

    A stretch is a quarter of a sequence: a fault that begins at some length shows there, while a
    few tokens that a router sends elsewhere do not move a median.
    """
    flat = differences.flatten()
    parts = [part for part in differences.tensor_split(STRETCHES, -1) if part.numel()]
    worst = torch.cat([part.quantile(0.5, dim=-1).flatten() for part in parts]).max()
    return [float(x) for x in (flat.mean(), flat.quantile(0.5), flat.quantile(0.9), worst)]


def check_policy(
    policy: Policy,
    contexts: Sequence[Context],
    max_new_tokens: int,
    fallback: Engine | None = None,
) -> list[Agreement]:
    """Find the fastest arrangement of passes that is right for prior and policy, and take it.

    Checked is a view of the policy, with a random adapter.

    Args:
        fallback: the policy's engine where its own does not give the model's numbers.

    Raises UserError where the model cannot run, its logits are not finite, it is not causal, or
    no arrangement gives its own numbers.
    """
    if fallback is not None and fallback.name != policy.engine.name:
        try:
            return check_policy(policy, contexts, max_new_tokens)
        except UserError:
            policy.engine = fallback
    prompts = checked_prompts(policy.prior, contexts, max_new_tokens)
    exact = _in_float32(policy, prompts)
    if exact is None:
        return _checked(policy, prompts, ARRANGEMENTS)
    _checked(exact, prompts, ARRANGEMENTS)
    return _checked(policy, prompts, ARRANGEMENTS[ARRANGEMENTS.index(exact.batching) :])


def _in_float32(policy: Policy, prompts: Sequence[Prompts]) -> Policy | None:
    """A policy in float32 of 16-bit weights, whose rounding would hide a fault of a cache.

    None where the weights are of float32 or too many for a copy, or where the model runs in its own
    precision alone.
    """
    plain, whole = policy.prior.plain, policy.whole
    weights = [*plain.parameters(), *(whole.parameters() if whole is not None else ())]
    kinds = {weight.dtype for weight in weights}
    if not kinds & LOW or not kinds <= LOW | {torch.float32}:
        return None
    if sum(w.numel() for w in weights) > _affordable(plain.device):
        return None
    copied = copy.deepcopy(plain).float()
    try:
        with unable():
            copied(input_ids=prompts[0].tokens[-1:], use_cache=False)
    except UnableError:
        return None
    prior = replace(policy.prior, model=with_kernels(copied, policy.prior.kernels), plain=copied)
    exact = Policy(prior, policy.lora, whole=whole and copy.deepcopy(whole).float())
    if policy.engine.exact_log_probs:
        exact.engine = policy.engine
    return exact


def _affordable(device: torch.device) -> int:
    """Weights that a copy of four bytes each, and what it computes, may have for a while."""
    if device.type != "cuda":
        return MAX_COPY_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return free // 16


def _checked(
    policy: Policy, prompts: Sequence[Prompts], arrangements: Sequence[Batching]
) -> list[Agreement]:
    adapted, reference = with_random_adapter(policy)
    wrong = wrong_layer(adapted, reference) if reference is not None else None
    if wrong:
        raise UserError(disagreement(policy, wrong))
    for adapted.batching in arrangements:
        try:
            found = _agreements(adapted, reference, prompts)
        except UnableError as failure:
            problem = f"{failure} ({adapted.batching})"
        else:
            policy.batching = adapted.batching
            return found
    raise UserError(disagreement(policy, problem))


def disagreement(policy: Policy, problem: str) -> str:
    """The line that refuses a model for a `problem`."""
    model = policy.prior.plain
    return (
        f"model {policy.prior.name}: klvi does not give the numbers of {type(model).__name__} "
        f"({', '.join(layer_kinds(model))}): {problem}; take another model, and report this "
        "with what klvi env model.path=… prints"
    )


def _agreements(
    policy: Policy, reference: PreTrainedModel | None, prompts: Sequence[Prompts]
) -> list[Agreement]:
    """Of prior and policy, for each part of the check, up to the first problem, which is raised."""
    prior = policy.without_adapter()
    if not policy.engine.exact_log_probs:
        prior.engine = TorchEngine()
    views = [("prior", prior, policy.prior.plain)]
    if reference is not None:
        views.insert(0, ("policy", policy, reference))
    found = []
    for part in prompts:
        completed: Completed | None = None
        for name, view, plain in views:
            # A merged policy is decoded by the modules of its prior: once is enough.
            known = completed if completed is not None and policy.is_mergeable else None
            try:
                with unable():
                    completed = complete(view, part, known)
            except UnableError:
                _check_plain(policy.prior.name, plain, part)
                raise
            agreement = _compare(name, policy.prior.name, plain, completed)
            if agreement.problem:
                raise UnableError(agreement.problem)
            found.append(agreement)
    return found


@contextmanager
def unable() -> Iterator[None]:
    """Turns what a model raises into `UnableError`, but running out of memory."""
    try:
        yield
    except Exception as error:  # models raise whatever they like
        if isinstance(error, RunError) or is_out_of_memory(error):
            raise
        raise UnableError(described(error)) from error


def _check_plain(name: str, plain: PreTrainedModel, prompts: Prompts) -> None:
    """Raises UserError where a plain pass as long as the run fails, or is not finite."""
    row = prompts.tokens[int(prompts.lengths.argmax())]
    tokens = row.repeat(prompts.longest // len(row) + 1)[: prompts.longest]
    with _running(name, plain, prompts.longest):
        log_probs = plain_log_probs(plain, tokens, 1)
    _check_finite(name, plain, [log_probs])


@contextmanager
def _running(name: str, plain: PreTrainedModel, longest: int) -> Iterator[None]:
    try:
        with unable():
            yield
    except UnableError as failure:
        raise UserError(
            f"model {name}: {type(plain).__name__} cannot run on {longest} "
            f"tokens ({failure}); lower max_new_tokens, or take another model"
        ) from failure


def _check_finite(name: str, plain: PreTrainedModel, references: Sequence[Tensor]) -> None:
    if not all(bool(reference.isfinite().all()) for reference in references):
        raise UserError(
            f"model {name}: the logits of {type(plain).__name__} are not finite in "
            f"{str(plain.dtype).removeprefix('torch.')}; set model.dtype=float32 or bfloat16"
        )


def _compare(name: str, model: str, plain: PreTrainedModel, completed: Completed) -> Agreement:
    with _running(model, plain, completed.longest):
        rows = [_differences(plain, completed, row) for row in completed.distinct_prompts()]
    _check_finite(model, plain, [reference for reference, *_ in rows])
    references, spread, prefixes, decoded, scored = (list(part) for part in zip(*rows, strict=True))
    largest = max(float(reference.abs().max()) for reference in references)
    agreement = Agreement(
        view=name,
        spread=torch.stack(spread),
        prefixes=torch.stack(prefixes),
        decoded=None if completed.decoded is None else torch.stack(decoded),
        scored=torch.stack(scored),
        floor=SPACINGS * torch.finfo(torch.float32).eps * (1 + largest),
    )
    if not agreement.is_causal:
        raise UserError(
            f"model {model}: {type(plain).__name__} is no causal language model at "
            f"{completed.longest} tokens: a token's log-probability moves by "
            f"{float(agreement.prefixes.mean()):.2g} nats with what follows it; take a causal "
            "model, or, where its positions are scaled by length, lower max_new_tokens"
        )
    return agreement


def _differences(plain: PreTrainedModel, completed: Completed, row: int) -> tuple[Tensor, ...]:
    """The reference `(T,)` of one row, and the differences from it that `Agreement` holds."""
    tokens, start = completed.row(row)
    reference = plain_log_probs(plain, tokens, start)
    places = sorted({0, len(reference) // 2, len(reference) - 1})
    prefixes = torch.stack([prefix_log_prob(plain, tokens, start + p) for p in places])
    decoded = completed.scored if completed.decoded is None else completed.decoded
    return (
        reference,
        plain_spread(plain, tokens, start, reference),
        (prefixes - reference[places]).abs(),
        (decoded[row].double() - reference).abs()[None],
        (completed.scored[row].double() - reference).abs()[None],
    )


def with_random_adapter(policy: Policy) -> tuple[Policy, PreTrainedModel | None]:
    """The policy with a random adapter, and peft's own model with the same; None without one.

    Of a whole model, the policy as it is, and that model without klvi's kernels.
    """
    random = policy.snapshot()
    if random.adapted is None:
        return random, random.whole
    _randomise(random)
    reference = view_of(policy.prior.plain)
    adapt(reference, random.adapted.peft_config["default"]).eval()
    named = dict(reference.named_parameters())
    for name, weight in random.adapter.items():
        named[name].data = weight.detach()
    return random, reference


@torch.no_grad()
def _randomise(policy: Policy) -> None:
    """Adapter weights that change each layer's weight by `CHANGE` times its norm."""
    generator = torch.Generator().manual_seed(0)
    policy.set_adapter(torch.randn(p.shape, generator=generator) for p in policy.adapter.values())
    for name, layer in policy.adapted_layers.items():
        base = getattr(layer.get_base_layer(), "weight", None)
        size = 1.0 if base is None or base.is_quantized else float(base.float().norm())
        change = float(layer.get_delta_weight(layer.active_adapters[0]).float().norm())
        names = (f"{name}.lora_B", f"{name}.lora_embedding_B")
        up = next(p for n, p in policy.adapter.items() if n.startswith(names))
        up *= CHANGE * max(size, 1e-6) / change


def layer_kinds(model: nn.Module) -> list[str]:
    """The classes of the parts of a model's repeated blocks."""
    blocks = [
        block for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) > 1 for block in m
    ]
    return sorted({type(part).__name__ for block in blocks for part in block.children()})
