"""Training of the linear quality proxy: logistic regression on hashed n-grams by AdaGrad (Duchi et al. 2011).

Labels are 0..1 (soft labels are targets of the cross-entropy). The state after every epoch, under every decay, is
judged on validation documents, and the best is kept. Deterministic; one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numba
import numpy as np

from codeflow.train.classifier_config import LinearProxyConfig
from codeflow.train.classifier_scores import spearman
from codeflow.transform.hashed_ngrams import LinearScorer, NgramHasher

if TYPE_CHECKING:
    from numpy.typing import NDArray


# Documents as rows: places[ends[i - 1] : ends[i]] hold values of row i
_Sparse = tuple["NDArray[np.int64]", "NDArray[np.float32]", "NDArray[np.int64]"]


@numba.njit(cache=True)
def _epoch(rows, labels, order, weights, squares, rate, decay):  # pragma: no cover - compiled
    """Update weights (P + 1,) and sums of squared gradients, the bias last, by one pass over the rows in `order`.

    The decay is applied to a weight when it is touched.
    """
    places, values, ends = rows
    bias = len(weights) - 1
    for row in order:
        start = ends[row - 1] if row else 0
        logit = weights[bias]
        for i in range(start, ends[row]):
            logit += weights[places[i]] * values[i]
        error = 1.0 / (1.0 + np.exp(-logit)) - labels[row]
        for i in range(start, ends[row]):
            place = places[i]
            gradient = error * values[i] + decay * weights[place]
            squares[place] += gradient * gradient
            weights[place] -= rate * gradient / np.sqrt(squares[place] + 1e-8)
        squares[bias] += error * error
        weights[bias] -= rate * error / np.sqrt(squares[bias] + 1e-8)


def train_linear(
    texts: Sequence[str],
    labels: NDArray[np.float64],
    validation: tuple[Sequence[str], NDArray[np.float64]],
    config: LinearProxyConfig,
    seed: int,
) -> tuple[LinearScorer, dict[str, float]]:
    """Return the best state of all epochs and decays, and what it was. `labels` (N,) are 0..1."""
    hasher = NgramHasher(config.bits, config.max_bytes)
    rows = _sparse(texts, hasher)
    best: tuple[float, NDArray[np.float32], float] | None = None
    chosen: dict[str, float] = {}
    for decay in config.decays:
        generator = np.random.default_rng(seed)
        weights, squares = np.zeros(2**config.bits + 1), np.zeros(2**config.bits + 1)
        for epoch in range(1, config.epochs + 1):
            order = generator.permutation(len(labels))
            _epoch(rows, labels, order, weights, squares, config.learning_rate, decay)
            found = LinearScorer(weights[:-1].astype(np.float32), float(weights[-1]), hasher)
            value = spearman(found.logits(validation[0])[0], validation[1])
            if best is None or value > best[0]:
                best = (value, found.weights, found.bias)
                chosen = {"epoch": epoch, "decay": decay, "validation_spearman": value}
    assert best is not None
    return LinearScorer(best[1], best[2], hasher), chosen


def _sparse(texts: Sequence[str], hasher: NgramHasher) -> _Sparse:
    parts = [hasher.features(text) for text in texts]
    ends = np.cumsum([len(places) for places, _ in parts], dtype=np.int64)
    return np.concatenate([places for places, _ in parts]), np.concatenate([values for _, values in parts]), ends
