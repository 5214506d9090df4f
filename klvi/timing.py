"""Where an update's seconds go: whoever does the work says what it is, whoever asks collects."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_TIMINGS: ContextVar[dict[str, float] | None] = ContextVar("timings", default=None)


@contextmanager
def collecting(timings: dict[str, float]) -> Iterator[None]:
    """Add the seconds of every stage inside to `timings`."""
    token = _TIMINGS.set(timings)
    try:
        yield
    finally:
        _TIMINGS.reset(token)


@contextmanager
def timed(stage: str, device: torch.device) -> Iterator[None]:
    """Count the block's seconds, what `device` still does included, where anybody collects them."""
    timings = _TIMINGS.get()
    if timings is None:
        yield
        return
    _finish(device)
    started = time.perf_counter()
    yield
    _finish(device)
    timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
