"""Memory that one step frees is there for the next one.

glibc gives large blocks back to the system as they are freed, and the system clears each page that it hands out again,
which takes time where a step's arrays have a few megabytes.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""

KEPT = 512 << 20
"""Bytes that may stay free at the top of the heap.  What is free below it stays anyhow, as without this."""

LARGEST = 32 << 20
"""Arrays smaller than this come from the heap: where glibc's own adaptation would end.  Larger ones go back."""


def keep_freed_memory() -> bool:
    """Ask the C library to keep what is freed; False where it is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, KEPT))
