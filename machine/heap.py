"""Memory of the CPU between tensors: kept by the process instead of handed back each time.

glibc takes every block above 32 MB from the system for itself and returns it as soon as it is freed, and the
system clears each page again before it hands it out. A VAE at 512x512 makes hundreds of tensors of 134 MB,
and spent a third of its time on that.
"""

import ctypes
from typing import Any

KEPT = 2**31 - 1  # bytes, of a block and of all that is free: mallopt takes no larger number
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Let this process keep what it frees for its next tensors, up to `KEPT`; without glibc, do nothing."""
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def give_back_freed_memory() -> None:
    """Hand the system all that is free, also between blocks that are not; without glibc, do nothing."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except TypeError:  # Windows: no library of the process itself
        return None
