from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.eval.metrics import (
    Share,
    bits_per_byte,
    bootstrap_interval,
    edit_distance,
    edit_similarity,
    pass_at_k,
    ratio,
)


def _passk_cases() -> list[dict]:
    named = os.environ.get("CODEFLOW_BENCHMARKS")
    path = (Path(named) if named else Path(__file__).parents[3] / "shared/data") / "passk/cases_sample.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set CODEFLOW_BENCHMARKS")
    return json.loads(path.read_text())


def test_pass_at_k_against_official_values():
    cases = _passk_cases()
    assert len(cases) > 10
    for case in cases:
        assert pass_at_k(case["n"], case["c"], case["k"]) == pytest.approx(case["pass_at_k"], abs=1e-12)


@pytest.mark.parametrize(("n", "c"), [(5, 0), (5, 1), (6, 3), (4, 4)])
def test_pass_at_k_is_the_share_of_lucky_subsets(n, c):
    right = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        draws = list(itertools.combinations(right, k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


@pytest.mark.parametrize("bad", [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)])
def test_pass_at_k_refuses_what_has_no_estimate(bad):
    with pytest.raises(ValueError, match="needs 0 <= c <= n"):
        pass_at_k(*bad)


def test_ratio_and_interval():
    shares = [Share(1, 1), Share(0, 1), Share(3, 4)]
    assert ratio(shares) == pytest.approx(4 / 6)
    low, high = bootstrap_interval(shares, 500, seed=1)
    assert 0 <= low < 4 / 6 < high <= 1
    assert bootstrap_interval(shares, 500, seed=1) == (low, high)
    with pytest.raises(ValueError, match="nothing to score"):
        ratio([])


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """Clusters of 8 equal outcomes each: an interval over single outcomes would be far too narrow."""
    import numpy as np

    source, covered, n_trials = np.random.default_rng(3), 0, 200
    for trial in range(n_trials):
        shares = [Share(8.0 * hit, 8.0) for hit in source.random(60) < 0.3]
        low, high = bootstrap_interval(shares, 400, seed=trial)
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / n_trials <= 0.99


def test_interval_of_equal_shares_is_a_point():
    assert bootstrap_interval([Share(0, 1)] * 5, 50, seed=0) == (0.0, 0.0)


def test_bits_per_byte():
    assert bits_per_byte(10 * math.log(2), 5) == pytest.approx(2.0)


def _plain_distance(left: str, right: str) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_edit_distance_against_the_table(left, right):
    assert edit_distance(left, right) == _plain_distance(left, right)


def test_edit_similarity():
    assert edit_similarity("", "") == 1
    assert edit_similarity("abc", "") == 0
    assert edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)
