"""Learning-rate factors: pure functions of (schedule, step, steps)."""

from __future__ import annotations

import math

from codeflow.train.config import ScheduleConfig


def factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Return the factor for update `step` (1 .. steps): the first update of a warm-up is above 0, the last of a decay
    is exactly `end_factor`, and so is all of the low-rate tail behind it.
    """
    assert 1 <= step <= steps, (step, steps)
    warmup_steps = round(schedule.warmup_fraction * steps)
    tail_steps = min(round(schedule.tail_fraction * steps), steps - warmup_steps)
    decay_steps = min(round(schedule.decay_fraction * steps), steps - warmup_steps - tail_steps)
    if step <= warmup_steps:
        return schedule.start_factor * step / warmup_steps
    if step > steps - tail_steps:
        return schedule.end_factor
    into_decay = step - (steps - tail_steps - decay_steps)
    if into_decay <= 0:
        return schedule.start_factor
    done = _shape(schedule.shape, into_decay / decay_steps)
    return schedule.start_factor + (schedule.end_factor - schedule.start_factor) * done


def _shape(name: str, part: float) -> float:
    """Return how much of the way from start to end is done at `part` (0..1) of the decay."""
    if name == "cosine":
        return 0.5 * (1 - math.cos(math.pi * part))
    if name == "square_root":
        return math.sqrt(part)
    assert name == "linear", name
    return part
