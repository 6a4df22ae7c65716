"""SIGTERM, which schedulers send some time before they take a machine away, as a question between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Preemption:
    """Whether this process was asked to end."""

    asked: bool = False


@contextmanager
def preemption() -> Iterator[Preemption]:
    """Note SIGTERM instead of dying of it while the block runs; signals reach the main thread only."""
    noted = Preemption()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(*_: object) -> None:
        noted.asked = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)
