"""Numbers over tasks: unbiased pass@k and pass^k, bits per byte, edit similarity, calibration, and bootstrap intervals
clustered by task, of one run or of the difference between two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_BINS = 10  # of confidence


@dataclass(frozen=True, slots=True)
class Share:
    """What one cluster (a task, a document) adds to a ratio: the score is sum of totals / sum of weights."""

    total: float
    weight: float


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased estimate of pass@k from `c` right ones of `n` samples (Chen et al. 2021, equation 1).

    Raises ValueError unless 0 <= c <= n and 1 <= k <= n: with fewer samples than k there is no unbiased estimate.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"n={n}, c={c}, k={k}: needs 0 <= c <= n and 1 <= k <= n")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def pass_hat_k(n: int, c: int, k: int) -> float:
    """Return the unbiased estimate of pass^k, the chance that k samples are all right (Yao et al. 2024, tau-bench).

    Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"n={n}, c={c}, k={k}: needs 0 <= c <= n and 1 <= k <= n")
    return math.comb(c, k) / math.comb(n, k)


def ratio(shares: Sequence[Share]) -> float:
    """Return sum of totals / sum of weights. Raises ValueError when the weights sum to 0."""
    weight = math.fsum(share.weight for share in shares)
    if weight <= 0:
        raise ValueError(f"{len(shares)} shares with a weight of {weight}: nothing to score")
    return math.fsum(share.total for share in shares) / weight


def bootstrap_interval(shares: Sequence[Share], n: int, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of `ratio` over `n` resamples of whole clusters; a function of the seed."""
    totals = np.array([share.total for share in shares])
    weights = np.array([share.weight for share in shares])
    source = np.random.default_rng(seed)
    values: list[np.ndarray] = []
    per_block = max(1, 2_000_000 // len(shares))  # bounds memory
    for first in range(0, n, per_block):
        chosen = source.integers(len(shares), size=(min(per_block, n - first), len(shares)))
        drawn = weights[chosen].sum(axis=1)
        kept = drawn > 0
        values.append(totals[chosen].sum(axis=1)[kept] / drawn[kept])
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(values), [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two runs' scores on the same tasks. `p_value`: two-sided, by flipping signs of tasks."""

    value: float
    low: float
    high: float
    p_value: float
    n: int


def paired_difference(left: Sequence[float], right: Sequence[float], n: int, seed: int) -> Difference:
    """Return right - left over tasks that both runs have, with a 95 % bootstrap interval over tasks.

    Raises ValueError when there is no task or the lengths differ.
    """
    if not left or len(left) != len(right):
        raise ValueError(f"{len(left)} and {len(right)} tasks: needs the same ones, and at least one")
    differences = np.array(right, dtype=float) - np.array(left, dtype=float)
    low, high = bootstrap_interval([Share(float(one), 1.0) for one in differences], n, seed)
    flips = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n, len(differences)))
    beyond = np.abs((flips * differences).mean(axis=1)) >= abs(differences.mean()) - 1e-12
    return Difference(float(differences.mean()), low, high, float((beyond.sum() + 1) / (n + 1)), len(differences))


def calibration_error(
    confidences: Sequence[float], right: Sequence[bool], clusters: Sequence[str], n_resamples: int, seed: int
) -> tuple[float, float, float]:
    """Return the expected calibration error (Guo et al. 2017; ten bins of equal width) with a 95 % interval.

    Confidences are 0..1; clusters name the task of each answer. Raises ValueError when there is no answer.
    """
    if not confidences:
        raise ValueError("no answer to calibrate on")
    names = sorted(set(clusters))
    place = {name: number for number, name in enumerate(names)}
    gaps, counts = np.zeros((len(names), _BINS)), np.zeros(len(names))
    for confidence, passed, cluster in zip(confidences, right, clusters, strict=True):
        gaps[place[cluster], min(int(confidence * _BINS), _BINS - 1)] += confidence - passed
        counts[place[cluster]] += 1

    def error(weights: np.ndarray) -> np.ndarray:  # (R, clusters) -> (R,)
        return np.abs(weights @ gaps).sum(axis=1) / (weights @ counts)

    source = np.random.default_rng(seed)
    drawn = source.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)
    low, high = np.quantile(error(drawn), [0.025, 0.975])
    return float(error(np.ones((1, len(names))))[0]), float(low), float(high)


def transfer_interval(
    values: Mapping[str, Sequence[float]], source: str, n_resamples: int, seed: int
) -> tuple[float, float, float]:
    """Return the mean score of the other languages as a share of the source language's, with a 95 % interval.

    Languages count the same; tasks are resampled within their language. Raises ValueError when the source scores 0.
    """
    if not sum(values[source]):
        raise ValueError(f"{source} scores 0: nothing that the others could be a share of")
    random = np.random.default_rng(seed)
    means: dict[str, np.ndarray] = {}
    for name in sorted(values):
        found = np.array(values[name], dtype=float)
        drawn = found[random.integers(len(found), size=(n_resamples, len(found)))].mean(axis=1)
        means[name] = np.concatenate([[found.mean()], drawn])
    others = np.mean([mean for name, mean in means.items() if name != source], axis=0)
    shares = others[means[source] > 0] / means[source][means[source] > 0]
    low, high = np.quantile(shares[1:], [0.025, 0.975])
    return float(shares[0]), float(low), float(high)


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Return bits per byte of a text of `n_bytes` whose negative log-likelihood is `nats`."""
    return nats / math.log(2) / n_bytes


def edit_distance(left: str, right: str) -> int:
    """Return the Levenshtein distance in characters, by bit-parallel columns (Hyyrö 2003)."""
    if not left:
        return len(right)
    places: dict[str, int] = {}
    for index, character in enumerate(left):
        places[character] = places.get(character, 0) | 1 << index
    full, last = (1 << len(left)) - 1, 1 << (len(left) - 1)
    rises, falls, distance = full, 0, len(left)
    for character in right:
        equal = places.get(character, 0)
        vertical = equal | falls
        horizontal = (((equal & rises) + rises) ^ rises) | equal
        up = falls | (full & ~(horizontal | rises))
        down = rises & horizontal
        distance += bool(up & last) - bool(down & last)
        up = (up << 1 | 1) & full
        rises = (down << 1 & full) | (full & ~(vertical | up))
        falls = up & vertical
    return distance


def edit_similarity(left: str, right: str) -> float:
    """Return 1 - distance / length of the longer text; 1 for two empty ones."""
    longest = max(len(left), len(right))
    return 1.0 - edit_distance(left, right) / longest if longest else 1.0
