"""Freed memory is kept: run in a process of its own, whose memory the call changes for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
torch.set_num_threads(1)
from klvi.engine.kernels.allocator import keep_freed_memory
{keep}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
print(first, faults())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def run(keep: str) -> list[int]:
    program = PROGRAM.format(keep=keep)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [int(word) for word in result.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's memory")
def test_freed_memory_serves_again_and_none_is_taken_ahead() -> None:
    _, again, most = run("keep_freed_memory()")
    _, plain, least = run("")
    # Where the kernel gives large pages unasked there are few faults in any case.
    assert again < max(plain / 20, 8)
    # 32 MiB are used, and large pages round up; the heap's whole length would be 1024 MiB.
    assert most < least + 100
