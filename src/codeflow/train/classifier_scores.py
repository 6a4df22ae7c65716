"""How well scores agree with labels: rank correlation, F1, calibration, and paired bootstrap over repositories.

Legend: N documents. `folds` (N,) says which model scored a document: models of different folds are on scales of their
own, so ranks are taken within a fold and the folds' correlations averaged by their documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]
    Places = NDArray[np.int64]

_N_BINS = 10
_NEWTON_STEPS = 50


def mean_ranks(values: Numbers) -> Numbers:
    """Return ranks from 0 (N,), equal values sharing the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place]


def spearman(scores: Numbers, labels: Numbers) -> float:
    """Return Spearman's rank correlation; 0 where one side is constant (no order was given)."""
    if len(scores) < 2:
        return 0.0
    x, y = (ranks - ranks.mean() for ranks in (mean_ranks(scores), mean_ranks(labels)))
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else 0.0


def spearman_by_fold(scores: Numbers, labels: Numbers, folds: Places) -> float:
    """Return the mean of the folds' correlations, weighted by their documents."""
    parts = [(folds == fold) for fold in np.unique(folds)]
    return sum(spearman(scores[part], labels[part]) * part.sum() for part in parts) / len(folds)


def auc(scores: Numbers, positive: NDArray[np.bool_]) -> float | None:
    """Return the chance that a positive is scored above a negative; None without one of either."""
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    above = mean_ranks(scores)[positive].sum() - n_positive * (n_positive - 1) / 2
    return float(above / (n_positive * n_negative))


def f1(scores: Numbers, positive: NDArray[np.bool_], threshold: float) -> dict[str, float]:
    """Return precision, recall and F1 of calling scores from `threshold` on positive (0 where undefined)."""
    called = scores >= threshold
    hits = int((called & positive).sum())
    precision = hits / int(called.sum()) if called.any() else 0.0
    recall = hits / int(positive.sum()) if positive.any() else 0.0
    both = precision + recall
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / both if both else 0.0}


def calibration(scores: Numbers, labels: Numbers) -> dict[str, object]:
    """Return the expected calibration error over ten bins of equal width, Brier's score, and the bins."""
    place = np.minimum((scores * _N_BINS).astype(np.int64), _N_BINS - 1)
    bins, error = [], 0.0
    for number in range(_N_BINS):
        inside = place == number
        if inside.any():
            said, held = float(scores[inside].mean()), float(labels[inside].mean())
            error += abs(said - held) * inside.sum() / len(scores)
            bins.append({"n": int(inside.sum()), "score": said, "label": held})
    return {"ece": float(error), "brier": float(np.mean((scores - labels) ** 2)), "bins": bins}


def platt(logits: Numbers, labels: Numbers) -> tuple[float, float]:
    """Return slope and offset that make sigmoid(slope * logit + offset) fit labels 0..1 best (Platt 1999), by Newton.

    The slope is kept at or above 0 so that the order of documents never turns; without any signal it is 0.
    """
    scale = float(np.std(logits)) or 1.0
    x = np.stack([logits / scale, np.ones(len(logits))], axis=1)
    weights = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        p = 0.5 * (1 + np.tanh(0.5 * (x @ weights)))
        curvature = x.T @ (x * (p * (1 - p))[:, None]) + 1e-6 * len(x) * np.eye(2)
        step = np.linalg.solve(curvature, x.T @ (labels - p) - 1e-6 * len(x) * weights)
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    if weights[0] < 0:
        mean = min(max(float(labels.mean()), 1e-6), 1 - 1e-6)
        return 0.0, float(np.log(mean / (1 - mean)))
    return float(weights[0]) / scale, float(weights[1])


def resamples(groups: Sequence[str], n: int, seed: int) -> list[Places]:
    """Return `n` lists of rows (M,), each the rows of as many groups as there are, drawn with replacement."""
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    rows = [np.flatnonzero(place == number) for number in range(len(names))]
    generator = np.random.default_rng(seed)
    return [np.concatenate([rows[number] for number in generator.integers(0, len(rows), len(rows))]) for _ in range(n)]


def interval(statistic: Callable[[Places], float], drawn: Sequence[Places]) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic of rows."""
    low, high = np.percentile([statistic(rows) for rows in drawn], [2.5, 97.5])
    return float(low), float(high)


def compared(
    scores: Mapping[str, Numbers], baseline: str, labels: Numbers, folds: Places, groupings: Mapping[str, list[Places]]
) -> dict[str, dict[str, object]]:
    """Return for each other scorer its Spearman less the baseline's, with an interval per grouping of resamples.

    `beats_baseline` is "yes" where every interval lies above 0, "no, it is worse" where every one lies below, else
    "not shown".
    """
    result: dict[str, dict[str, object]] = {}
    for name, values in scores.items():
        if name == baseline:
            continue

        def difference(rows: Places, values: Numbers = values) -> float:
            one, other = (spearman_by_fold(s[rows], labels[rows], folds[rows]) for s in (values, scores[baseline]))
            return one - other

        intervals = {grouping: interval(difference, drawn) for grouping, drawn in groupings.items()}
        above = all(low > 0 for low, _ in intervals.values())
        below = all(high < 0 for _, high in intervals.values())
        result[name] = {
            "difference": difference(np.arange(len(labels))),
            "intervals": intervals,
            "beats_baseline": "yes" if above else "no, it is worse" if below else "not shown",
        }
    return result
