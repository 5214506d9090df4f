"""What one process measured of its own updates: wall and CPU seconds, stages, tokens, memory."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
STAGES = ("generation", "prior", "values", "reward", "update")
NECESSARY_PARTS = ("decode", "prior pass", "forward and backward")


@dataclass
class Measurement:
    """The measured updates of one side.

    Attributes:
        seconds: wall seconds of each update; `cpu_seconds` those the process itself computed, which
            other processes on the machine disturb less.
        stages: seconds of each stage of each update.
        tokens: completion tokens of each update.
        peak: MiB at most in use, above the bare imports on the CPU, by torch on CUDA.
        bound: seconds in which the weights could be read once for each token of a completion, the
            least that decoding can take; 0 where it was not measured.
    """

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    peak: float = 0.0
    bound: float = 0.0

    def to_json(self) -> str:
        """For the parent process."""
        return json.dumps(asdict(self))

    @staticmethod
    def merge(parts: list[Measurement]) -> Measurement:
        """The updates of several processes; of their peaks and bounds the median."""
        return Measurement(
            seconds=[x for part in parts for x in part.seconds],
            cpu_seconds=[x for part in parts for x in part.cpu_seconds],
            stages=[x for part in parts for x in part.stages],
            tokens=[x for part in parts for x in part.tokens],
            peak=statistics.median(part.peak for part in parts),
            bound=statistics.median(part.bound for part in parts),
        )

    @property
    def wall(self) -> float:
        """Median wall seconds per update."""
        return statistics.median(self.seconds)

    @property
    def cpu(self) -> float:
        """Median CPU seconds per update."""
        return statistics.median(self.cpu_seconds)

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per wall second of the median update."""
        return statistics.median(t / s for t, s in zip(self.tokens, self.seconds, strict=True))

    def stage(self, name: str) -> float | None:
        """Median seconds of a stage; None where this side has no such stage."""
        found = [stages[name] for stages in self.stages if name in stages]
        return statistics.median(found) if found else None


class Recorder:
    """Cuts a process's time into updates and stages."""

    def __init__(self, device: str, warmup: int) -> None:
        self.result = Measurement()
        self._cuda = device == "cuda"
        self._skip = warmup
        self._stages: dict[str, float] = {}
        self._baseline = memory("VmRSS")
        self._mark = self._cpu_mark = 0.0

    def start(self) -> None:
        """Training starts now."""
        self._mark, self._cpu_mark = self.now(), time.process_time()

    def now(self) -> float:
        """Wall seconds, when all work handed to the device is done."""
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def add(self, stage: str, seconds: float) -> None:
        """Count seconds of the update in progress."""
        self._stages[stage] = self._stages.get(stage, 0.0) + seconds

    def timed(self, stage: str, function: Callable[..., T]) -> Callable[..., T]:
        """`function`, its seconds counted as `stage`."""

        def wrapper(*arguments: object, **options: object) -> T:
            started = self.now()
            value = function(*arguments, **options)
            self.add(stage, self.now() - started)
            return value

        return wrapper

    def end_update(self, tokens: int) -> None:
        """An update ends now; warm-up updates are forgotten."""
        now, cpu = self.now(), time.process_time()
        if self._skip > 0:
            self._skip -= 1
        else:
            self.result.seconds.append(now - self._mark)
            self.result.cpu_seconds.append(cpu - self._cpu_mark)
            self.result.stages.append(self._stages)
            self.result.tokens.append(tokens)
        self._stages = {}
        self._mark, self._cpu_mark = now, cpu

    def finish(self) -> Measurement:
        """The measurement, with the peak memory of the process's whole life."""
        if self._cuda:
            self.result.peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            self.result.peak = memory("VmHWM") - self._baseline
        return self.result


def memory(kind: str) -> float:
    """MiB of this process: `VmRSS` in use now, `VmHWM` at most so far (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{kind}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, f"/proc/self/status has no {kind}"
    return int(found[1]) / 1024


def read_bandwidth(device: str) -> float:
    """Bytes per second at which one core, or the GPU, reads memory: the best of a few sums."""
    count = 2**28 if device == "cuda" else 2**26
    numbers = torch.ones(count, device=device)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        numbers.sum().item()
        best = min(best, time.perf_counter() - started)
    return 4 * count / best
