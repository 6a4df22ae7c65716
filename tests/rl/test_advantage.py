from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.rl.advantage import group_advantages, has_signal

THIRD = 2**0.5  # of one right in three: (1 - 1/3) / (sqrt(2) / 3)


@pytest.mark.parametrize(
    ("rewards", "plain", "divided"),
    [
        ([], [], []),
        ([1.0], [0], [0]),
        ([0.0, 0.0, 0.0], [0, 0, 0], [0, 0, 0]),
        ([1.0, 1.0], [0, 0], [0, 0]),
        ([0.3, 0.3, 0.3], [0, 0, 0], [0, 0, 0]),
        ([1.0, 0.0], [0.5, -0.5], [1, -1]),
        ([1.0, 0.0, 0.0], [2 / 3, -1 / 3, -1 / 3], [THIRD, -THIRD / 2, -THIRD / 2]),
        ([1.0, 0.5, 0.0], [0.5, 0, -0.5], [1.5**0.5, 0, -(1.5**0.5)]),
    ],
)
def test_table(rewards, plain, divided):
    assert group_advantages(rewards, divide_by_std=False) == pytest.approx(plain)
    assert group_advantages(rewards, divide_by_std=True) == pytest.approx(divided, abs=1e-5)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.booleans())
def test_they_sum_to_zero_and_keep_the_order(rewards, divide):
    advantages = group_advantages(rewards, divide)
    assert sum(advantages) == pytest.approx(0, abs=1e-6 * len(rewards) if not divide else 1e-3)
    ranked = sorted(zip(rewards, advantages, strict=True))
    assert [a for _, a in ranked] == sorted(a for _, a in ranked)
    assert any(advantages) <= has_signal(rewards)
