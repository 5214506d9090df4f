"""`klvi env`: versions, devices and paths, and whether a model's numbers are right here."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from klvi.commands.context import Context
from klvi.commands.schema import EnvConfig
from klvi.registry import packages
from klvi.terminal import put

if TYPE_CHECKING:
    from klvi.policy.self_check import Agreement

PACKAGES = (
    *("klvi", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "hydra-core"),
    *("omegaconf", "pydantic", "wandb", "vllm"),
)


def run(config: EnvConfig, context: Context) -> int:
    """Print a line per fact, and how far klvi's passes through the model are from plain ones."""
    for name, value in _facts():
        put(f"{name:<13} {value}")
    put()
    sys.stdout.flush()
    for line in _model_lines(config):
        put(line)
    return 0


def _facts() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()} ({platform.platform()})"
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"
    yield from packages().items()
    import torch

    yield "processor", f"{platform.machine()}, {torch.get_num_threads()} threads"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        properties = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not count:
        yield "cuda", "none"
    yield "klvi at", str(Path(__file__).parents[1])
    yield "working in", str(Path.cwd())
    for name in ("HF_HOME", "HF_HUB_OFFLINE", "WANDB_MODE"):
        if name in os.environ:
            yield name, os.environ[name]


def _model_lines(config: EnvConfig) -> Iterator[str]:
    from klvi.engine.devices import choose_device, use_device
    from klvi.policy.loading import quiet_transformers
    from klvi.policy.policy import Policy
    from klvi.policy.prior import load_prior
    from klvi.policy.self_check import check_policy, layer_kinds
    from klvi.prompts.contexts import load_contexts
    from klvi.runs.assembly import prompted

    device = choose_device(config.device)
    use_device(device)
    prior = load_prior(config.model, device)
    prior, contexts = prompted(prior, load_contexts(config.prompts), config.prompts)
    new_tokens = config.max_new_tokens
    prior.check_length(prior.encode(contexts)[0].shape[1], new_tokens)
    policy = Policy(prior, config.lora)
    with quiet_transformers():
        agreements = check_policy(policy, contexts, new_tokens)
    weights = sum(parameter.numel() for parameter in prior.plain.parameters())
    dtype = str(prior.plain.dtype).removeprefix("torch.")
    yield f"model         {prior.name}: {type(prior.plain).__name__}, {weights:,} weights, {dtype}"
    yield f"layers        {', '.join(layer_kinds(prior.plain))}"
    limit = prior.most_tokens
    yield f"sequences     {'no stated limit' if limit is None else f'at most {limit:,} tokens'}"
    yield f"passes        {policy.batching}"
    for kind, reason in policy.left_out.items():
        yield f"no adapter    {kind}: {reason}"
    yield ""
    yield "difference from a plain forward pass, nats a token    mean      90%       largest"
    for agreement in agreements:
        yield from _agreement_lines(agreement)
    yield "klvi gives this model's own numbers"


def _agreement_lines(agreement: Agreement) -> Iterator[str]:
    for name, values in (
        ("plain passes", agreement.spread),
        ("decoding", agreement.decoded),
        ("scoring", agreement.scored),
    ):
        if values is None:
            continue
        flat = values.flatten()
        numbers = (float(flat.mean()), float(flat.quantile(0.9)), float(flat.max()))
        shown = "  ".join(f"{number:<8.1e}" for number in numbers)
        yield f"  {agreement.view:<8}{name:<44}{shown}"
