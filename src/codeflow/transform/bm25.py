"""BM25 over the identifiers of code: which pieces of a repository resemble a query. Small, exact, numpy only.

score(query, piece) = sum over the query's terms of idf * f * (k1 + 1) / (f + k1 * (1 - b + b * length / mean length)),
with idf = log(1 + (n - m + 0.5) / (m + 0.5)) for a term in m of n pieces (Robertson and Zaragoza, 2009, §3.1).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]+")
_K1, _B = 1.2, 0.75


def terms(text: str) -> list[str]:
    """Return the identifiers of `text` with at least two characters, keywords among them (their idf is small)."""
    return _IDENTIFIER.findall(text)


class Bm25:
    """An index of pieces of text. A term's weight in each piece is computed once; a query adds up columns."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index `texts`; scores come in their order."""
        counts = [Counter(terms(text)) for text in texts]
        self._columns: dict[str, int] = {}
        columns, pieces, frequencies = [], [], []
        for piece, count in enumerate(counts):
            for term, frequency in count.items():
                columns.append(self._columns.setdefault(term, len(self._columns)))
                pieces.append(piece)
                frequencies.append(frequency)
        order = np.argsort(np.array(columns, np.int64), kind="stable")
        self._pieces = np.array(pieces, np.int64)[order]
        holders = np.bincount(np.array(columns, np.int64), minlength=len(self._columns))
        self._ends = np.cumsum(holders)
        self._idf = np.log1p((len(texts) - holders + 0.5) / (holders + 0.5))
        lengths = np.array([count.total() for count in counts], np.float64)
        ratio = lengths / max(lengths.mean(), 1.0) if len(texts) else lengths
        f = np.array(frequencies, np.float64)[order]
        damped = f * (_K1 + 1) / (f + _K1 * (1 - _B + _B * ratio[self._pieces]))
        self._weights = damped * np.repeat(self._idf, holders)
        self.n_pieces = len(texts)

    def scores(self, query: str, max_terms: int = 128) -> NDArray[np.float64]:
        """Return the score of every piece (n,) for the distinct terms of `query`, of which the rarest count."""
        known = sorted({self._columns[term] for term in terms(query) if term in self._columns})
        known.sort(key=lambda column: -self._idf[column])  # stable: equal idf in order of first appearance
        total = np.zeros(self.n_pieces)
        for column in known[:max_terms]:
            start = self._ends[column - 1] if column else 0
            span = slice(start, self._ends[column])
            total[self._pieces[span]] += self._weights[span]
        return total
