"""Settings of the whole process, which only a command makes."""

from __future__ import annotations


def prepare_process(threads: int | None = None) -> None:
    """Give torch this many `threads` on the CPU; None leaves the number to torch."""
    if threads is not None:
        import torch  # takes seconds, and what only prints can do without

        torch.set_num_threads(threads)
