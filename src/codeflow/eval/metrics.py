"""Numbers over tasks: unbiased pass@k, bits per byte, edit similarity, and bootstrap intervals clustered by task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
