"""Memory that this process has freed and its C library still holds."""

from __future__ import annotations

import ctypes

LARGE_BYTES = 32 * 2**20  # a buffer that finds no place in the holes between others


def give_back() -> None:
    """Give it back to the system, holes between what is in use too; with another C library than glibc do nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
