"""`device=`: what is not there is one line with the key and the remedy."""

from __future__ import annotations

import pytest
import torch

from klvi.engine.devices import allow_tf32, choose_device, use_device
from klvi.errors import UserError


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("count", "wanted", "device"),
    [
        (0, "auto", "cpu"),
        (2, "auto", "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_devices_that_are_there(
    count: int, wanted: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count)
    assert choose_device(wanted) == device


@pytest.mark.parametrize(
    ("count", "wanted", "words"),
    [
        (0, "cuda", ["device=cuda:", "device=cpu"]),
        (0, "cuda:0", ["device=cuda:0", "device=cpu"]),
        (2, "cuda:2", ["device=cuda:2", "cuda:0, cuda:1", "CUDA_VISIBLE_DEVICES"]),
        (2, "mps", ["device=mps", "device=cpu"]),
    ],
)
def test_devices_that_are_not_there(
    count: int, wanted: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count)
    with pytest.raises(UserError) as caught:
        choose_device(wanted)
    (line,) = caught.value.problems
    assert all(word in line for word in words), line


def test_a_gpu_with_a_number_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams, graphs, synchronisation and libraries take the current device."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for device in ("cpu", "cuda", "mps", "cuda:1"):
        use_device(device)
    assert current == [torch.device("cuda:1")]


def test_tf32_is_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", wanted.append)
    allow_tf32("cpu")
    assert wanted == []
    allow_tf32("cuda:1")
    assert wanted == ["high"]


def test_metal_is_used_where_it_is_asked_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps") == "mps"
    assert choose_device("auto") == "cpu"
