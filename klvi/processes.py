"""Work spread over processes: rows sharded, results gathered, gradients summed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

T = TypeVar("T")


class Processes:
    """One process alone; `Distributed` is several.

    Attributes:
        rank: of this process, from 0.
        count: of all processes.
    """

    rank = 0
    count = 1

    def shard(self, rows: int) -> range:
        """Which of `rows` are this process's: contiguous, in the order of ranks, sizes within 1."""
        return range(self.rank * rows // self.count, (self.rank + 1) * rows // self.count)

    def gather(self, value: T) -> list[T]:
        """The values of all processes in the order of their ranks, on every one of them."""
        return [value]

    def reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over processes, the same bits on all of them."""


class Distributed(Processes):
    """The processes of torch.distributed's default group, which run the same program.

    Values are gathered as pickles; whoever is in the group is trusted.
    """

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.count = torch.distributed.get_world_size()

    def gather(self, value: T) -> list[T]:
        """As `Processes.gather`; tensors had better be on the CPU."""
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def reduce(self, tensors: Sequence[Tensor]) -> None:
        """As `Processes.reduce`, in one message for tensors of one type and device."""
        if not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))


def current() -> Processes:
    """Those of torch.distributed where it was initialised; else this process alone."""
    distributed = torch.distributed
    return Distributed() if distributed.is_available() and distributed.is_initialized() else ALONE


ALONE = Processes()
