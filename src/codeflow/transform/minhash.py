"""MinHash signatures of code, straight from bytes: tokens, shingles and permutations in one compiled pass.

A token is a run of word bytes (letters, digits, `_`, everything that is not ASCII) or a run of other visible bytes;
white space separates tokens and is not seen otherwise. A shingle is `n_tokens` tokens in a row; a text with fewer
tokens, but at least one, has one shingle of all of them, and a text without tokens has none (its signature is all
ones, and it takes part in no band). Letter case counts.

    bytes -> token hashes (64 bit) -> rolling polynomial over n_tokens -> mixed 64-bit shingle hash
          -> upper 32 bits x -> min over the text of (a_j * x + b_j) mod 2^32 for each permutation j

Only fixed-size blocks of token and shingle hashes exist between the steps, in the first-level cache. The kernels
release the GIL. Shapes: D documents, K permutations, S shingles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]

_BLOCK = 2048  # shingles per block: 16 KiB of token hashes and 8 KiB of shingle hashes
_UNROLL = 8  # shingles per visit of the signature
_LANES = 32  # permutations are padded to a multiple of this, so that no scalar remainder is left
_SEED = 0x9E3779B97F4A7C15
_START = np.uint64(0xCBF29CE484222325)
_BYTE_FACTOR = np.uint64(0x9FB21C651E98DF25)
_TOKEN_FACTOR = np.uint64(0xD6E8FEB86659FD93)
_ROLL = np.uint64(0xA0761D6478BD642F)
_MIX = np.uint64(0xE7037ED1A0B428DB)
_32, _29 = np.uint64(32), np.uint64(29)
_WHITE = b" \t\n\r\f\v\x00"


def _byte_classes() -> UInt8:
    classes = np.full(256, 2, np.uint8)
    classes[128:] = 1
    for byte in range(128):
        if chr(byte).isalnum() or chr(byte) == "_":
            classes[byte] = 1
    classes[list(_WHITE)] = 0
    return classes


BYTE_CLASSES = _byte_classes()  # 0 white space, 1 word, 2 other
WORD_CLASSES = np.where(BYTE_CLASSES == 1, np.uint8(1), np.uint8(0))  # only words are tokens


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, keeping machine code on disk where some folder can be written, and without where none can."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no writable place for its cache
        return numba.njit(nogil=True)(function)


@dataclass(frozen=True)
class Permutations:
    """K hash functions x -> (a * x + b) mod 2^32, a odd; arrays are padded to a multiple of 32."""

    factors: UInt32  # (padded K,)
    terms: UInt32
    n: int  # K


def permutations(n: int) -> Permutations:
    """Return the first `n` of one fixed sequence of hash functions: the same on every machine and in every version."""
    padded = -(-n // _LANES) * _LANES
    draws = [_splitmix(index) for index in range(2 * padded)]
    factors = np.array([(draw >> 32) | 1 for draw in draws[0::2]], np.uint32)
    return Permutations(factors, np.array([draw >> 32 for draw in draws[1::2]], np.uint32), n)


def _splitmix(index: int) -> int:
    mask = (1 << 64) - 1
    z = (_SEED * (index + 1)) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@compiled
def _tokenise(data, position, end, state, previous, classes, tokens, filled):
    """Append token hashes until the bytes or the room end; return (position, state, previous class, filled).

    Without branches on the text: the running hash is always stored, and the place advances where a token ends.
    """
    room = tokens.size
    while position < end and filled < room:
        byte = data[position]
        kind = classes[byte]
        same = kind == previous
        tokens[filled] = state
        filled += np.int64((not same) and previous != 0)
        state = ((state if same else _START) ^ np.uint64(byte)) * _BYTE_FACTOR
        previous = kind
        position += 1
    return position, state, previous, filled


@compiled
def _next_tokens(data, position, end, state, previous, classes, tokens, carried):
    """Fill `tokens` behind the `carried` ones; return (position, state, previous class, filled, finished)."""
    position, state, previous, filled = _tokenise(data, position, end, state, previous, classes, tokens, carried)
    if position == end and previous != 0 and filled < tokens.size:
        tokens[filled] = state
        filled += 1
        previous = np.uint8(0)
    for i in range(carried, filled):
        tokens[i] = (tokens[i] ^ (tokens[i] >> _32)) * _TOKEN_FACTOR
    return position, state, previous, filled, position == end and previous == 0


@compiled
def _roll(tokens, filled, n_tokens, drop, whole, shingles):
    """Write the hash of every run of `n_tokens` tokens; return their number. `drop` is _ROLL ** (n_tokens - 1).

    `whole` says that `tokens` is the whole text: if it is too short, all of it is one shingle.
    """
    rolling = np.uint64(0)
    for i in range(min(n_tokens - 1, filled)):
        rolling = rolling * _ROLL + tokens[i]
    count = max(filled - n_tokens + 1, 0)
    for i in range(count):
        rolling = rolling * _ROLL + tokens[i + n_tokens - 1]
        shingles[i] = rolling
        rolling -= tokens[i] * drop
    if whole and 0 < filled < n_tokens:
        shingles[0] = rolling
        count = 1
    for i in range(count):
        x = shingles[i]
        x = (x ^ (x >> _32)) * _MIX
        x = (x ^ (x >> _29)) * _TOKEN_FACTOR
        shingles[i] = x ^ (x >> _32)
    return count


@compiled
def _carry(tokens, filled, n_tokens):
    """Move the tokens that the next block's first shingles need to the front; return their number."""
    kept = min(n_tokens - 1, filled)
    for i in range(kept):
        tokens[i] = tokens[filled - kept + i]
    return kept


@compiled
def _lower(shingles, count, points, factors, terms, signature):
    """Lower the signature by the block's shingles, several at a visit. `points` is room for 32-bit hashes.

    The product is cast back at once: uint32 * uint32 is uint64 here.
    """
    for i in range(count):
        points[i] = np.uint32(shingles[i] >> _32)
    padded = -(-count // _UNROLL) * _UNROLL
    for i in range(count, padded):
        points[i] = points[0]
    for i in range(0, padded, _UNROLL):
        p0, p1, p2, p3 = points[i], points[i + 1], points[i + 2], points[i + 3]
        p4, p5, p6, p7 = points[i + 4], points[i + 5], points[i + 6], points[i + 7]
        for j in range(signature.size):
            a, b = factors[j], terms[j]
            x = min(np.uint32(a * p0 + b), np.uint32(a * p1 + b))
            y = min(np.uint32(a * p2 + b), np.uint32(a * p3 + b))
            z = min(np.uint32(a * p4 + b), np.uint32(a * p5 + b))
            w = min(np.uint32(a * p6 + b), np.uint32(a * p7 + b))
            signature[j] = min(signature[j], min(min(x, y), min(z, w)))


@compiled
def _sign(data, offsets, n_tokens, drop, classes, factors, terms, signatures):
    tokens = np.empty(_BLOCK + n_tokens, np.uint64)
    shingles = np.empty(_BLOCK + n_tokens, np.uint64)
    points = np.empty(_BLOCK + n_tokens + _UNROLL, np.uint32)
    for d in range(offsets.size - 1):
        position, end = np.int64(offsets[d]), np.int64(offsets[d + 1])
        state, previous, carried, whole, finished = _START, np.uint8(0), 0, True, False
        while not finished:
            position, state, previous, filled, finished = _next_tokens(
                data, position, end, state, previous, classes, tokens, carried
            )
            count = _roll(tokens, filled, n_tokens, drop, whole and finished, shingles)
            _lower(shingles, count, points, factors, terms, signatures[d])
            carried = _carry(tokens, filled, n_tokens)
            whole = False


@compiled
def _shingle(data, start, end, n_tokens, drop, classes, out):
    tokens = np.empty(_BLOCK + n_tokens, np.uint64)
    position, state, previous, carried, whole, finished, n = start, _START, np.uint8(0), 0, True, False, 0
    while not finished:
        position, state, previous, filled, finished = _next_tokens(
            data, position, end, state, previous, classes, tokens, carried
        )
        n += _roll(tokens, filled, n_tokens, drop, whole and finished, out[n:])
        carried = _carry(tokens, filled, n_tokens)
        whole = False
    return n


@compiled
def _shingle_all(data, offsets, n_tokens, drop, classes, out, out_offsets):
    n = 0
    for d in range(offsets.size - 1):
        n += _shingle(data, offsets[d], offsets[d + 1], n_tokens, drop, classes, out[n:])
        out_offsets[d + 1] = n
    return n


@compiled
def _intersection(left, right):
    i, j, n = 0, 0, 0
    while i < left.size and j < right.size:
        a, b = left[i], right[j]
        n += np.int64(a == b)
        i += np.int64(a <= b)
        j += np.int64(b <= a)
    return n


@compiled
def _band_keys(signatures, n_bands, n_rows, keys):
    for d in range(signatures.shape[0]):
        for band in range(n_bands):
            x = _START
            for row in range(n_rows):
                x = (x ^ np.uint64(signatures[d, band * n_rows + row])) * _MIX
                x ^= x >> _32
            keys[band, d] = x


def signatures(
    data: UInt8,
    offsets: npt.NDArray[np.integer[Any]],
    functions: Permutations,
    n_tokens: int,
    classes: UInt8 = BYTE_CLASSES,
) -> UInt32:
    """Return the MinHash signatures (D, K) of D texts that lie one behind another in `data`.

    Text d is `data[offsets[d] : offsets[d + 1]]`, as in an Arrow string column.
    """
    out = np.full((offsets.size - 1, functions.factors.size), np.iinfo(np.uint32).max, np.uint32)
    _sign(data, _int64(offsets), n_tokens, _drop(n_tokens), classes, functions.factors, functions.terms, out)
    return out[:, : functions.n]


def shingle_batch(
    data: UInt8, offsets: npt.NDArray[np.integer[Any]], n_tokens: int, classes: UInt8 = BYTE_CLASSES
) -> tuple[UInt64, Int64]:
    """Return the shingle hashes of D texts (see `signatures`), one text behind another, and their offsets (D + 1,)."""
    out = np.empty(int(offsets[-1] - offsets[0]) + offsets.size, np.uint64)
    out_offsets = np.zeros(offsets.size, np.int64)
    n = _shingle_all(data, _int64(offsets), n_tokens, _drop(n_tokens), classes, out, out_offsets)
    return out[:n], out_offsets


def shingle_hashes(text: bytes | memoryview | UInt8, n_tokens: int, classes: UInt8 = BYTE_CLASSES) -> UInt64:
    """Return the 64-bit hashes (S,) of a text's shingles in order of the text, repetitions included."""
    data = np.frombuffer(text, np.uint8)
    out = np.empty(data.size + _BLOCK + n_tokens, np.uint64)
    return out[: _shingle(data, np.int64(0), np.int64(data.size), n_tokens, _drop(n_tokens), classes, out)]


def shingle_set(text: bytes | memoryview | UInt8, n_tokens: int) -> UInt64:
    """Return the sorted distinct 64-bit shingle hashes of a text."""
    return distinct(shingle_hashes(text, n_tokens))


def distinct(values: UInt64) -> UInt64:
    """Return the sorted distinct values (several times faster here than numpy.unique)."""
    ordered = np.sort(values)
    first = np.ones(ordered.size, bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def jaccard(left: UInt64, right: UInt64) -> float:
    """Return |intersection| / |union| of two sorted arrays of distinct values; 0.0 when both are empty."""
    common = int(_intersection(left, right))
    union = left.size + right.size - common
    return common / union if union else 0.0


def band_keys(signatures_dk: UInt32, n_bands: int, n_rows: int) -> UInt64:
    """Return the 64-bit key of every band of every signature, (n_bands, D)."""
    keys = np.empty((n_bands, signatures_dk.shape[0]), np.uint64)
    _band_keys(np.ascontiguousarray(signatures_dk), n_bands, n_rows, keys)
    return keys


def bands_for(threshold: float, n_permutations: int, recall: float) -> tuple[int, int]:
    """Return (n_bands, n_rows): the most selective banding that finds pairs of Jaccard `threshold` with `recall`.

    A pair of similarity s shares a band with probability 1 - (1 - s ** n_rows) ** n_bands. More rows mean fewer
    candidates to verify, so the largest n_rows that reaches `recall` within `n_permutations` is taken, with as few
    bands as reach it. Raises ValueError when even one row cannot.
    """
    for n_rows in range(n_permutations, 0, -1):
        for n_bands in range(1, n_permutations // n_rows + 1):
            if 1 - (1 - threshold**n_rows) ** n_bands >= recall:
                return n_bands, n_rows
    raise ValueError(f"{n_permutations} permutations cannot reach recall {recall} at threshold {threshold}; use more")


def _int64(offsets: npt.NDArray[np.integer[Any]]) -> Int64:
    return np.ascontiguousarray(offsets, np.int64)


def _drop(n_tokens: int) -> np.uint64:
    return np.uint64(pow(int(_ROLL), n_tokens - 1, 1 << 64))
