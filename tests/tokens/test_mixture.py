"""Weights become an even, exact deal of rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.errors import UserError
from codeflow.tokens.mixture import (
    CYCLE_ROWS,
    MID_TRAINING_32K,
    MID_TRAINING_128K,
    Blend,
    by_epochs,
    cycle_counts,
    deal,
    flatten,
    mid_training,
)

WEIGHTS = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(1e-9, 1e3), min_size=1)


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.integers(0, 2**32))
def test_a_cycle_holds_each_set_by_weight_and_counts_agree(weights: dict[str, float], seed: int) -> None:
    counts = cycle_counts(weights)
    total = sum(weights.values())
    assert sum(counts.values()) == CYCLE_ROWS
    assert min(counts.values()) >= 1
    assert all(abs(counts[name] - max(1, w / total * CYCLE_ROWS)) <= len(weights) for name, w in weights.items())
    dealt = deal(weights, seed)
    assert dict(zip(dealt.names, np.bincount(dealt.set_at).tolist(), strict=True)) == counts


def test_deal_counts_equal_a_walk_through_the_rows() -> None:
    dealt = deal({"a": 0.7, "b": 0.2, "c": 0.1}, seed=5)
    rows = np.arange(2 * CYCLE_ROWS + 1000)
    which, before = dealt.at(rows)
    for index in range(3):
        mine = before[which == index]
        assert (mine == np.arange(len(mine))).all()
        assert dealt.rows_of_sets(len(rows))[index] == len(mine)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_any_stretch_is_close_to_the_weights(seed: int) -> None:
    weights = {"a": 0.55, "b": 0.3, "c": 0.1, "d": 0.05}
    dealt = deal(weights, seed)
    for first in (0, 17, 40_000):
        for length in (10, 100, 1000):
            which, _ = dealt.at(np.arange(first, first + length))
            found = np.bincount(which, minlength=4)
            expected = np.array([weights[name] for name in dealt.names]) * length
            assert np.abs(found - expected).max() <= 3, (first, length)


def test_nested_weights_multiply() -> None:
    flat = flatten({"text": 1, "code": Blend(weight=3, of={"python": 2, "c": Blend(weight=1, of={"h": 1, "cc": 1})})})
    assert flat == pytest.approx({"text": 0.25, "python": 0.5, "h": 0.125, "cc": 0.125})


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"a": -1.0}, r"mixture\.a=-1\.0"),
        ({"a": float("nan")}, r"mixture\.a=nan"),
        ({"a": 0.0}, "no set has a positive weight"),
        ({}, "no set has a positive weight"),
        ({"a": 1.0, "b": Blend(weight=1, of={"a": 1.0})}, "'a' is named twice"),
    ],
)
def test_bad_weights_are_user_errors(mixture: dict[str, float | Blend], message: str) -> None:
    with pytest.raises(UserError, match=message):
        flatten(mixture)


def test_mid_training_presets_sum_to_300_billion() -> None:
    assert sum(MID_TRAINING_32K.values()) == sum(MID_TRAINING_128K.values()) == 300


def test_mid_training_is_half_completion_and_a_tenth_fresh() -> None:
    first = flatten(mid_training(MID_TRAINING_32K))
    assert first["reasoning"] == pytest.approx(175 / 300)
    assert first["file"] == first["file_fim"] == pytest.approx(17.5 / 300)
    assert first["repository"] == first["repository_fim"] == pytest.approx(2.5 / 300)
    second = flatten(mid_training(MID_TRAINING_128K, fresh_share=0.1))
    assert second["fresh_32k"] == pytest.approx(0.1)
    assert second["agent"] == pytest.approx(0.9 * 110 / 300)
    assert sum(second.values()) == pytest.approx(1)


def test_weights_by_epochs_read_each_set_so_often() -> None:
    weights, n_rows = by_epochs({"code": 2, "books": 0.5, "web": 1}, {"code": 3000, "books": 800, "web": 9600})
    assert n_rows == 16_000
    dealt = deal(weights, 0)
    counts = dict(zip(dealt.names, dealt.rows_of_sets(n_rows).tolist(), strict=True))
    assert counts == pytest.approx({"code": 6000, "books": 400, "web": 9600}, abs=3)
    with pytest.raises(UserError, match="set 'web' has no rows to read 2 times"):
        by_epochs({"web": 2}, {"code": 5, "web": 0})
    with pytest.raises(UserError, match=r"epochs\.code=-1"):
        by_epochs({"code": -1}, {"code": 5})
