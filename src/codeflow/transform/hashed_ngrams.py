"""A linear classifier over hashed n-grams of words: the fast quality proxy.

A word is a run of letters, digits and underscores (every byte from 128 on counts as a letter), any other byte that is
no blank, or a line break with the indentation after it. Each word, pair and triple of neighbours is hashed to one of
2**bits places (Weinberger et al. 2009, unsigned). A document is the vector of log(1 + count), brought to length 1, so
that its size alone does not show.

One pass over the bytes counts, one over the touched places sums; the kernel is numba's. Legend: N documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from codeflow.core.errors import UserError
from codeflow.core.storage import write_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHTS = "linear.safetensors"
_BLANK, _LETTER, _OTHER, _BREAK = 0, 1, 2, 3
_FIRST, _PRIME = 2166136261, 16777619  # FNV-1a, 32 bits
_MIX = (2654435761, 2246822519, 3266489917)  # odd multipliers of a word and of the two before it


def _classes() -> NDArray[np.uint8]:
    table = np.full(256, _OTHER, np.uint8)
    letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_" + bytes(range(128, 256))
    table[list(letters)] = _LETTER
    table[list(b" \t\r\x0b\x0c")] = _BLANK
    table[ord("\n")] = _BREAK
    return table


_CLASSES = _classes()


@numba.njit(cache=True, inline="always")
def _bump(counts, touched, n_touched, place):  # pragma: no cover - compiled
    if counts[place] == 0:
        touched[n_touched] = place
        n_touched += 1
    counts[place] += 1
    return n_touched


@numba.njit(cache=True, nogil=True)
def _count(text, classes, counts, touched, mask):  # pragma: no cover - compiled
    """Count the n-grams of `text` in `counts`; return how many places of `touched` were written.

    `mask` is 2**bits - 1. Arithmetic is in uint64, cut to 32 bits: numba would promote uint32 products.
    """
    low = np.uint64(0xFFFFFFFF)
    before = np.uint64(0)
    before2 = np.uint64(0)
    n_words = n_touched = 0
    at = 0
    while at < len(text):
        kind = classes[text[at]]
        if kind == _BLANK:
            at += 1
            continue
        word = ((np.uint64(_FIRST) ^ np.uint64(text[at])) * np.uint64(_PRIME)) & low
        at += 1
        if kind == _LETTER:
            while at < len(text) and classes[text[at]] == _LETTER:
                word = ((word ^ np.uint64(text[at])) * np.uint64(_PRIME)) & low
                at += 1
        elif kind == _BREAK:
            while at < len(text) and classes[text[at]] == _BLANK:
                word = ((word ^ np.uint64(text[at])) * np.uint64(_PRIME)) & low
                at += 1
        gram = (word * np.uint64(_MIX[0])) & low
        n_touched = _bump(counts, touched, n_touched, (gram >> np.uint64(7)) & mask)
        if n_words > 0:
            gram = (gram ^ before * np.uint64(_MIX[1])) & low
            n_touched = _bump(counts, touched, n_touched, (gram >> np.uint64(7)) & mask)
        if n_words > 1:
            gram = (gram ^ before2 * np.uint64(_MIX[2])) & low
            n_touched = _bump(counts, touched, n_touched, (gram >> np.uint64(7)) & mask)
        before2 = before
        before = word
        n_words += 1
    return n_touched


@numba.njit(cache=True, nogil=True)
def _logits(data, ends, classes, weights, mask, logarithms, counts, touched):  # pragma: no cover - compiled
    result = np.zeros(len(ends))
    start = 0
    for document in range(len(ends)):
        n = _count(data[start : ends[document]], classes, counts, touched, mask)
        start = ends[document]
        total = square = 0.0
        for i in range(n):
            place = touched[i]
            value = logarithms[min(counts[place], len(logarithms) - 1)]
            total += value * weights[place]
            square += value * value
            counts[place] = 0
        result[document] = total / np.sqrt(square) if square > 0 else 0.0
    return result


@numba.njit(cache=True, nogil=True)
def _features(text, classes, mask, logarithms, counts, touched):  # pragma: no cover - compiled
    n = _count(text, classes, counts, touched, mask)
    places = touched[:n].copy()
    values = np.empty(n, np.float32)
    square = 0.0
    for i in range(n):
        values[i] = logarithms[min(counts[places[i]], len(logarithms) - 1)]
        square += values[i] * values[i]
        counts[places[i]] = 0
    if square > 0:
        values /= np.sqrt(square)
    return places, values


class NgramHasher:
    """Turns texts into sparse vectors. Not thread-safe: it owns the table that counts are made in."""

    def __init__(self, bits: int, max_bytes: int) -> None:
        """2**bits places; of each text the first `max_bytes` are read."""
        self.bits, self.max_bytes = bits, max_bytes
        self.mask = np.uint64(2**bits - 1)
        self.logarithms = np.log1p(np.arange(4096)).astype(np.float32)
        self.counts = np.zeros(2**bits, np.int32)
        self.touched = np.zeros(min(2**bits, 3 * max_bytes + 3), np.int64)

    def features(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the places of a text's n-grams and their values, (n,) each; the values have length 1."""
        data = np.frombuffer(self.read(text), np.uint8)
        return _features(data, _CLASSES, self.mask, self.logarithms, self.counts, self.touched)

    def read(self, text: str) -> bytes:
        """Return the bytes of a text that are read."""
        return text[: self.max_bytes].encode("utf-8", "surrogatepass")[: self.max_bytes]


class LinearScorer:
    """Weights over hashed n-grams."""

    _BATCH_BYTES = 4_000_000

    def __init__(self, weights: NDArray[np.float32], bias: float, hasher: NgramHasher) -> None:
        """`weights` (2**bits,)."""
        assert weights.shape == (2**hasher.bits,), weights.shape
        self.weights, self.bias, self._hasher = weights, bias, hasher

    def logits(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return a logit per text (N,), and the bytes read (N,)."""
        results: list[NDArray[np.float64]] = [np.zeros(0)]
        sizes: list[int] = []
        batch: list[bytes] = []
        for text in texts:
            batch.append(self._hasher.read(text))
            sizes.append(len(batch[-1]))
            if sum(sizes[-len(batch) :]) >= self._BATCH_BYTES:
                results.append(self._batch(batch))
                batch = []
        results.append(self._batch(batch))
        return np.concatenate(results) + self.bias, np.array(sizes, np.int64)

    def _batch(self, batch: Sequence[bytes]) -> NDArray[np.float64]:
        hasher = self._hasher
        ends = np.cumsum([len(data) for data in batch], dtype=np.int64)
        data = np.frombuffer(b"".join(batch), np.uint8)
        table = (hasher.mask, hasher.logarithms, hasher.counts, hasher.touched)
        return _logits(data, ends, _CLASSES, self.weights, *table)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the weights to `folder`; return the parameters that `load` wants."""
        from safetensors.numpy import save

        tensors = {"weights": self.weights, "bias": np.array([self.bias], np.float64)}
        write_bytes(folder / WEIGHTS, save(tensors))
        return {"bits": self._hasher.bits, "max_bytes": self._hasher.max_bytes}


def load(folder: Path, parameters: Mapping[str, Any], n_threads: int | None = None) -> LinearScorer:
    """Load what `save` wrote; it works on one thread. Raises UserError when the weights do not fit the parameters."""
    from safetensors.numpy import load_file

    tensors = load_file(folder / WEIGHTS)
    hasher = NgramHasher(int(parameters["bits"]), int(parameters["max_bytes"]))
    if tensors["weights"].shape != (2**hasher.bits,):
        raise UserError(f"{folder / WEIGHTS} has {tensors['weights'].shape} weights, not 2**{hasher.bits}; train again")
    return LinearScorer(tensors["weights"], float(tensors["bias"][0]), hasher)
