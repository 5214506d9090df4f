"""The state that a process has but once, lent to a user's file and taken back."""

from __future__ import annotations

import contextlib
import gc
import locale
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from klvi import interruption


@dataclass(frozen=True)
class Setting:
    """One thing that any code may set for the whole process.

    Attributes:
        name: what a warning calls it; empty where libraries set it as a matter of course.
        lasting: whether the user's file finds it again as it left it, call after call.
    """

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], object]
    lasting: bool = True


def _set_filters(filters: tuple[Any, ...]) -> None:
    with warnings.catch_warnings():  # whose end tells the warnings registry of the change
        pass
    warnings.filters[:] = filters  # type: ignore[index]  # a list, though typed as a sequence


def _set_handler(number: int) -> Callable[[Any], object]:
    # A handler that C code installed reads as None and cannot be set again from Python.
    return lambda handler: None if handler is None else signal.signal(number, handler)


def _autocast(device: str) -> Setting:
    return Setting(
        f"torch's autocast ({device})",
        lambda: torch.is_autocast_enabled(device),
        lambda on: torch.set_autocast_enabled(device, on),
    )


def _handler(number: signal.Signals, *, lasting: bool) -> Setting:
    return Setting(
        f"the handler of {number.name}",
        lambda: signal.getsignal(number),
        _set_handler(number),
        lasting,
    )


def _set_cudnn(both: tuple[bool, bool]) -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = both


def _working_folder() -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return os.getcwd()
    return None


def _leave_inference_mode(wanted: bool) -> None:
    """Enter the other mode; its guard is never left, as the one that was entered is not."""
    guard = torch.inference_mode(wanted)
    guard.__enter__()
    _ENTERED.append(guard)


_ENTERED: list[Any] = []

SETTINGS = [
    Setting(
        "torch's default dtype (torch.set_default_dtype)",
        torch.get_default_dtype,
        torch.set_default_dtype,
    ),
    Setting(
        "torch's default device (torch.set_default_device)",
        torch.get_default_device,
        lambda device: torch.set_default_device(None if device.type == "cpu" else device),
    ),
    Setting(
        "torch's threads (torch.set_num_threads)", torch.get_num_threads, torch.set_num_threads
    ),
    Setting(
        "torch's inference mode", torch.is_inference_mode_enabled, _leave_inference_mode, False
    ),
    Setting(
        "torch's gradients (torch.set_grad_enabled)", torch.is_grad_enabled, torch.set_grad_enabled
    ),
    Setting(
        "torch.use_deterministic_algorithms",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda both: torch.use_deterministic_algorithms(both[0], warn_only=both[1]),
    ),
    Setting(
        "torch.set_float32_matmul_precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    *map(_autocast, ("cpu", "cuda")),
    Setting(
        "torch's anomaly detection",
        torch.is_anomaly_enabled,
        lambda on: torch.autograd.set_detect_anomaly(on),
    ),
    Setting(
        "torch.backends.cudnn",
        lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        _set_cudnn,
    ),
    Setting(
        "the working folder (os.chdir)",
        _working_folder,
        lambda folder: None if folder is None else os.chdir(folder),
    ),
    Setting(
        "the locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda value: locale.setlocale(locale.LC_ALL, value),
    ),
    # A reward that is stuck has to be stoppable: these handlers stay klvi's within it, too.
    *(_handler(number, lasting=False) for number in interruption.SIGNALS),
    *(
        _handler(number, lasting=True)
        for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)
    ),
    Setting(
        "the garbage collector (gc.disable)",
        gc.isenabled,
        lambda on: gc.enable() if on else gc.disable(),
    ),
    Setting(
        "a timer (signal.setitimer, signal.alarm)",
        lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        lambda on: None if on else signal.setitimer(signal.ITIMER_REAL, 0),
        False,
    ),
    Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("numpy's handling of errors (np.seterr)", np.geterr, lambda kinds: np.seterr(**kinds)),
    Setting("", lambda: tuple(warnings.filters), _set_filters),
]


def _cuda_state() -> Any:
    return torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None


# Of each the user's file has a stream of its own, so that what it draws moves nothing of klvi's.
RANDOM_STREAMS: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
    (random.getstate, random.setstate),
    (np.random.get_state, np.random.set_state),
    (torch.get_rng_state, torch.set_rng_state),
    (_cuda_state, lambda state: None if state is None else torch.cuda.set_rng_state(state)),
]
TORCH_SEED = "torch's seed (torch.manual_seed)"


# The update whose samples are scored, for rewards that draw random numbers: a run that is resumed
# draws those of one that never stopped.
UPDATE: ContextVar[int] = ContextVar("update", default=0)


def _seeded_streams(seed: int) -> list[Any]:
    return [
        random.Random(seed).getstate(),
        np.random.RandomState(seed).get_state(),
        torch.Generator().manual_seed(seed).get_state(),
        None,
    ]


@dataclass
class Lent:
    """The process's state as one user's file has left it; outside of `lend` all is klvi's.

    Random streams begin anew at each update.

    `changed` is told the name of each setting that the file changes, at every change.
    """

    changed: Callable[[str], None]
    _own: dict[int, Any] = field(default_factory=dict)
    _streams: list[Any] | None = None
    _update: int | None = None

    @contextlib.contextmanager
    def lend(self) -> Iterator[None]:
        """Within, the file's state; afterwards klvi's again, whatever happened."""
        outside = [setting.get() for setting in SETTINGS]
        streams = [get() for get, _ in RANDOM_STREAMS]
        seed = torch.initial_seed()
        for index, value in self._own.items():
            SETTINGS[index].set(value)
        if self._streams is None or self._update != UPDATE.get():
            self._update = UPDATE.get()
            self._streams = _seeded_streams(self._update)
        _set_streams(self._streams)
        seed = torch.initial_seed()
        process = os.getpid()
        try:
            yield
        finally:
            if os.getpid() == process:  # of a child that the file forks nothing is klvi's
                if torch.initial_seed() != seed:
                    self.changed(TORCH_SEED)
                self._take_back(outside)
                self._streams = [get() for get, _ in RANDOM_STREAMS]
                _set_streams(streams)

    def _take_back(self, outside: list[Any]) -> None:
        for index, (setting, before) in enumerate(zip(SETTINGS, outside, strict=True)):
            after = setting.get()
            known = self._own.get(index, before)
            if after != known and setting.name:
                self.changed(setting.name)
            if after == before:
                self._own.pop(index, None)
                continue
            if setting.lasting:
                self._own[index] = after
            setting.set(before)


def _set_streams(states: list[Any]) -> None:
    for (_, set_state), state in zip(RANDOM_STREAMS, states, strict=True):
        set_state(state)
