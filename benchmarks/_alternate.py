"""Timing of several sides in turn, so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def best_cpu_seconds(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return each side's fewest seconds of process time over `rounds` rounds, after one that does not count."""
    best = dict.fromkeys(sides, float("inf"))
    for turn in range(rounds + 1):
        for side, work in sides.items():
            started = time.process_time()
            work()
            if turn:
                best[side] = min(best[side], time.process_time() - started)
    return best
