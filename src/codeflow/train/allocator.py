"""Let glibc keep freed memory: a training step frees and takes the same large buffers again and again.

By default glibc maps every large buffer afresh and gives it back, so that the kernel zeroes each page at each step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of mallopt(3); values are C ints
_NEVER, _PAD_BYTES = -1, 256 * 2**20
_DEFAULTS = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 128 * 1024, _TOP_PAD: 0}


@contextmanager
def kept_memory() -> Iterator[bool]:
    """Keep freed memory in this process while the block runs, then give it back. Yields whether the C library can."""
    library = ctypes.CDLL(None)
    able = hasattr(library, "mallopt") and hasattr(library, "malloc_trim")
    if not able:  # another C library than glibc: slower, nothing else
        yield False
        return
    for parameter, value in {_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER, _TOP_PAD: _PAD_BYTES}.items():
        library.mallopt(parameter, value)
    try:
        yield True
    finally:
        for parameter, value in _DEFAULTS.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)
