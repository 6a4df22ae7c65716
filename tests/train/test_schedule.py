"""Tables of schedules."""

from __future__ import annotations

import itertools

import pytest
from pydantic import ValidationError

from codeflow.train.config import ScheduleConfig
from codeflow.train.schedule import factor

WARMUP = ScheduleConfig(warmup_fraction=0.4)
DECAY = ScheduleConfig(start_factor=1.0, end_factor=0.0, decay_fraction=1.0)
BOTH = ScheduleConfig(warmup_fraction=0.2, decay_fraction=0.4, end_factor=0.2)

TAIL = ScheduleConfig(warmup_fraction=0.1, decay_fraction=0.3, tail_fraction=0.4, end_factor=0.1, shape="cosine")


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        (ScheduleConfig(), 3, [1, 1, 1]),
        (WARMUP, 5, [0.5, 1, 1, 1, 1]),
        (DECAY, 4, [0.75, 0.5, 0.25, 0.0]),
        (BOTH, 10, [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]),
        (ScheduleConfig(start_factor=0.5, end_factor=0.1, decay_fraction=0.5), 4, [0.5, 0.5, 0.3, 0.1]),
        (ScheduleConfig(decay_fraction=1.0, end_factor=0.0, shape="cosine"), 2, [0.5, 0.0]),
        (ScheduleConfig(decay_fraction=1.0, end_factor=0.0, shape="square_root"), 4, [0.5, 0.2928932, 0.1339746, 0.0]),
        (TAIL, 10, [1, 1, 1, 0.775, 0.325, 0.1, 0.1, 0.1, 0.1, 0.1]),
        (TAIL, 1, [1.0]),
        (ScheduleConfig(tail_fraction=0.5, end_factor=0.1), 4, [1, 1, 0.1, 0.1]),
        (BOTH, 1, [1.0]),
        (DECAY, 1, [0.0]),
    ],
)
def test_factors(schedule: ScheduleConfig, steps: int, expected: list[float]) -> None:
    assert [factor(schedule, step, steps) for step in range(1, steps + 1)] == pytest.approx(expected, abs=1e-6)


def test_a_schedule_spans_phases_without_a_jump() -> None:
    """Warm-up and hold, hold, decay: the factor never moves by more than one step of warm-up."""
    phases = [(WARMUP, 10), (ScheduleConfig(), 5), (DECAY, 10)]
    factors = [factor(schedule, step, steps) for schedule, steps in phases for step in range(1, steps + 1)]
    assert max(abs(b - a) for a, b in itertools.pairwise(factors)) <= 0.25 + 1e-9
    assert factors[-1] == 0


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="exceed 1; lower one"):
        ScheduleConfig(warmup_fraction=0.6, decay_fraction=0.5)
    with pytest.raises(ValidationError, match=r"tail_fraction=0.3 exceed 1; lower one"):
        ScheduleConfig(decay_fraction=0.8, tail_fraction=0.3)
