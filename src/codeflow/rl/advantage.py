"""Group advantages (GRPO, DeepSeekMath §4.1): how much better a rollout did than its siblings. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

_SMALL = 1e-6  # keeps the division finite; a group that small in spread has no signal anyway


def group_advantages(rewards: Sequence[float], divide_by_std: bool) -> list[float]:
    """Return reward minus the group's mean, divided by the group's standard deviation if asked.

    The standard deviation is the population's, of the rewards given. A group of equal rewards, or of one, gets zeros.
    Without division easy and hard prompts keep their natural weight: p (1 - p) of signal (Liu et al. 2025, "Dr. GRPO").
    """
    if not has_signal(rewards):
        return [0.0] * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    differences = [reward - mean for reward in rewards]
    if not divide_by_std:
        return differences
    std = math.sqrt(math.fsum(d * d for d in differences) / len(rewards))
    return [difference / (std + _SMALL) for difference in differences]


def has_signal(rewards: Sequence[float]) -> bool:
    """Say whether a group teaches anything: at least two of its rewards differ."""
    return len(rewards) > 1 and max(rewards) > min(rewards)
