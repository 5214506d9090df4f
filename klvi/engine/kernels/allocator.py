"""How the C library hands out memory."""

from __future__ import annotations

import ctypes
import sys

# Of glibc's malloc.h and of Linux's mman.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MADV_HUGEPAGE = 14
MAX_BYTES = 2**31 - 1
# How far the heap is told to use large pages, and their size. What is not touched is not taken.
LARGE_PAGES, PAGE = 2**30, 2**21


def keep_freed_memory() -> None:
    """Let freed tensors' memory serve the next ones, in large pages, where the C library is glibc.

    By default it returns large blocks to the system at once, and every activation of every pass
    is then made of new pages, which cost more than the arithmetic that fills them.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    try:
        mallopt, malloc, free, madvise = (
            getattr(library, name) for name in ("mallopt", "malloc", "free", "madvise")
        )
    except AttributeError:
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, MAX_BYTES)
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.argtypes = [ctypes.c_void_p]
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # Freed at once: the heap keeps its length and the advice, which a kernel may ignore.
    block = malloc(LARGE_PAGES)
    if block:
        madvise(block + -block % PAGE, LARGE_PAGES - PAGE, MADV_HUGEPAGE)
        free(block)
