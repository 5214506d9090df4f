"""The device that a command computes on."""

from __future__ import annotations

import torch

from klvi.errors import UserError


def choose_device(wanted: str) -> str:
    """The device behind `device=`: auto is CUDA where there is any, else the CPU.

    Metal (mps) has no float64 and rounds in its own way: it is used where it is asked for.
    Raises UserError where the device is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda" if count else "cpu"
    kind, _, index = wanted.partition(":")
    if kind == "cuda" and not count:
        raise UserError(
            f"device={wanted}: torch sees no CUDA device; use device=cpu or device=auto"
        )
    if kind == "cuda" and index and int(index) >= count:
        known = ", ".join(f"cuda:{number}" for number in range(count))
        raise UserError(f"device={wanted}: torch sees {known} alone (CUDA_VISIBLE_DEVICES counts)")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            "device=mps: torch sees no Metal device (Apple GPU); use device=cpu or device=auto"
        )
    return wanted


def use_device(device: torch.device | str) -> None:
    """Make a CUDA device the process's own: streams, graphs and libraries take the current one."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def allow_tf32(device: torch.device | str) -> None:
    """On a GPU, let float32 matrix products round their operands to TF32, eight times as fast."""
    if torch.device(device).type == "cuda":
        torch.set_float32_matmul_precision("high")
