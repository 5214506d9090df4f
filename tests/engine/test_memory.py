"""Memory that runs out is one line: the stage, the key, exit code 1."""

from __future__ import annotations

import re
import weakref

import pytest
import torch

from klvi.config.keys import is_key
from klvi.engine.memory import REMEDIES, Stage, out_of_memory
from klvi.errors import RunError
from klvi.runs.schema import TrainConfig

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:30])
def test_every_device_s_error_is_known(error: Exception) -> None:
    with pytest.raises(RunError) as caught, out_of_memory("updating"):
        raise error
    assert caught.value.exit_code == 1
    (line,) = caught.value.problems
    assert "\n" not in line
    assert ("(Tried to allocate 20.00 GiB)" in line) == ("20.00 GiB" in str(error))
    for key in ("updating", "optim.micro_batch_tokens", "optim.gradient_checkpointing=true"):
        assert key in line


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, out_of_memory("decoding"):
        raise error
    assert caught.value is error


def test_the_innermost_stage_is_named() -> None:
    with pytest.raises(RunError, match=r"engine\.batch_size"):  # noqa: SIM117
        with out_of_memory("evaluating"), out_of_memory("decoding"):
            raise MemoryError


def test_tensors_of_the_failed_block_are_let_go() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        tensor = torch.ones(3)
        held.append(weakref.ref(tensor))
        raise MemoryError

    with pytest.raises(RunError), out_of_memory("scoring"):
        work()
    assert held[0]() is None


@pytest.mark.parametrize("stage", REMEDIES)
def test_remedies_are_keys_that_can_be_set(stage: Stage) -> None:
    raw = {"model": {"name": "some"}, "reward": {"name": "classifier"}}
    named = re.findall(r"[a-z]+\.[a-z_]+", REMEDIES[stage])
    assert named
    assert [key for key in named if not is_key(TrainConfig, raw, key)] == []
