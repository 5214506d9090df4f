"""Memory that runs out, told by the stage that needed it and the key that bounds it."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from klvi.errors import RunError

Stage = Literal[
    "loading",
    "decoding",
    "scoring",
    "computing rewards",
    "updating",
    "evaluating",
    "training",
]

REMEDIES: dict[Stage, str] = {
    "loading": "set model.dtype=bfloat16, or take a smaller model",
    "decoding": "lower engine.batch_size or max_new_tokens",
    "scoring": "lower engine.micro_batch_tokens",
    "computing rewards": "lower reward.batch_size, or take a smaller reward model",
    "updating": "lower optim.micro_batch_tokens, or set optim.gradient_checkpointing=true",
    "evaluating": "lower evaluation.samples and evaluation.prior_samples",
    "training": "lower batch_size, set model.dtype=bfloat16, or take a smaller model",
}
# What torch's allocators and libraries say where they raise a plain RuntimeError.
SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


@contextmanager
def out_of_memory(stage: Stage) -> Iterator[None]:
    """Raises RunError, naming the stage and the remedy, where memory runs out in the block.

    The tensors of the block are let go, so that what comes after, such as a checkpoint, has room.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ran_out(stage, error) from None


def ran_out(stage: Stage, error: BaseException) -> RunError:
    """The line for `error`, whose frames let go of their tensors."""
    wanted = re.search(r"tried to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
    reason = f" ({wanted[0]})" if wanted else ""
    traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return RunError(f"out of memory while {stage}: {REMEDIES[stage]}{reason}")
