"""Memory that this process has freed and its C library still holds."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_LARGE_BYTES = 32 * 2**20  # a buffer that finds no place in the holes between others
_sparing = [False]


def give_back() -> None:
    """Give it back to the system, holes between what is in use too; with another C library than glibc do nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


@contextmanager
def sparing(on: bool = True) -> Iterator[None]:
    """Let `make_room` work while the block runs; `on=False` changes nothing."""
    _sparing.append(on)
    try:
        yield
    finally:
        _sparing.pop()


def make_room(n_bytes: int) -> None:
    """Give memory back where it is spared, if so many bytes are a lot: what is made next would be put beside holes."""
    if spares(n_bytes):
        give_back()


def spares(n_bytes: int) -> bool:
    """True where memory is spared, if so many bytes are a lot."""
    return _sparing[-1] and n_bytes >= _LARGE_BYTES
