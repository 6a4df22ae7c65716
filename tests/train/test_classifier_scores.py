from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from codeflow.train.classifier_scores import (
    auc,
    calibration,
    compared,
    f1,
    mean_ranks,
    platt,
    resamples,
    spearman,
    spearman_by_fold,
)

GENERATOR = np.random.default_rng(0)


def test_ranks_and_correlation_by_hand() -> None:
    assert mean_ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 8.0])) == pytest.approx(1.0)
    assert spearman(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([2.0, 1.0, 4.0, 3.0, 5.0])) == pytest.approx(0.8)
    assert spearman(np.array([1.0, 2.0]), np.array([5.0, 5.0])) == 0.0


@given(arrays(np.float64, 12, elements=st.integers(0, 5).map(float)), st.integers(0, 99))
def test_correlation_sees_only_the_order(scores: np.ndarray, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 2, 12).astype(np.float64)
    assert spearman(np.exp(scores), labels) == pytest.approx(spearman(scores, labels))
    assert spearman(-scores, labels) == pytest.approx(-spearman(scores, labels))


def test_folds_are_on_scales_of_their_own() -> None:
    labels, folds = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0, 0, 1, 1])
    assert spearman_by_fold(np.array([1.0, 2.0, 101.0, 102.0]), labels, folds) == pytest.approx(1.0)
    assert spearman(np.array([1.0, 2.0, 101.0, 102.0]), labels) < 0.9


def test_auc_is_the_share_of_pairs_in_order() -> None:
    scores, positive = np.array([0.1, 0.4, 0.4, 0.8, 0.3]), np.array([False, True, False, True, True])
    pairs = [(s > t) + 0.5 * (s == t) for s in scores[positive] for t in scores[~positive]]
    assert auc(scores, positive) == pytest.approx(np.mean(pairs))
    assert auc(scores, np.ones(5, bool)) is None


def test_f1_by_hand() -> None:
    scores, positive = np.array([0.9, 0.6, 0.4, 0.2]), np.array([True, False, True, False])
    assert f1(scores, positive, 0.5) == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert f1(scores, positive, 0.3) == {"precision": 2 / 3, "recall": 1.0, "f1": 0.8}
    assert f1(scores, positive, 1.0)["f1"] == 0.0


def test_calibration_error_is_zero_for_honest_scores_and_not_for_bold_ones() -> None:
    scores = GENERATOR.uniform(size=40_000)
    labels = (GENERATOR.uniform(size=40_000) < scores).astype(np.float64)
    honest, bold = calibration(scores, labels), calibration(np.where(scores > 0.5, 0.99, 0.01), labels)
    assert honest["ece"] < 0.02
    assert bold["ece"] > 0.2
    assert bold["brier"] > honest["brier"]


def test_platt_finds_the_curve_that_made_the_labels_and_never_turns_the_order() -> None:
    logits = GENERATOR.normal(0, 3, 50_000)
    labels = (GENERATOR.uniform(size=50_000) < 1 / (1 + np.exp(-(0.5 * logits - 1)))).astype(np.float64)
    assert platt(logits, labels) == pytest.approx((0.5, -1.0), abs=0.04)
    slope, offset = platt(-logits, labels)
    assert slope == 0.0
    assert 1 / (1 + np.exp(-offset)) == pytest.approx(labels.mean())
    assert np.isfinite(platt(np.zeros(4), np.ones(4))).all()


def test_resamples_draw_whole_groups() -> None:
    groups = ["a", "b", "a", "c", "b"]
    for rows in resamples(groups, 50, 0):
        counts = np.bincount(rows, minlength=5)
        assert counts[0] == counts[2]
        assert counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3
    assert [r.tolist() for r in resamples(groups, 3, 1)] == [r.tolist() for r in resamples(groups, 3, 1)]


def test_a_claim_needs_every_interval_above_zero() -> None:
    n, groups = 600, [f"g{number % 30}" for number in range(600)]
    labels = GENERATOR.integers(0, 2, n).astype(np.float64)
    noise = GENERATOR.normal(size=n)
    scores = {"base": labels + 3 * noise, "better": labels + 0.3 * noise, "worse": noise, "same": labels + 3 * noise}
    drawn = {"groups": resamples(groups, 200, 0), "rows": resamples(list(map(str, range(n))), 200, 0)}
    found = compared(scores, "base", labels, np.zeros(n, np.int64), drawn)
    assert {name: row["beats_baseline"] for name, row in found.items()} == {
        "better": "yes",
        "worse": "no, it is worse",
        "same": "not shown",
    }
    assert found["same"]["difference"] == 0.0
