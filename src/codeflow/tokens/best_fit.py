"""Best-fit decreasing in compiled loops: which row each piece goes to, and the copy of pieces into rows.

Imported only by the stage that packs: numba compiles (once, then from its cache) when a kernel is first called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from codeflow.tokens.batch import DOCUMENT_START, LOSS

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAIN_BIT = np.uint32(1 << 31)  # of an encoded token: it is trained on
CUT_BIT = np.uint32(1 << 30)  # of an encoded token: its sample is best cut before it
_ID_MASK = np.uint32((1 << 30) - 1)


@njit(cache=True, nogil=True)
def cut_documents(
    tokens: NDArray[np.uint32],
    lengths: NDArray[np.int64],
    line_end: NDArray[np.bool_],
    context_tokens: int,
    slack_tokens: int,
    syntax_slack_tokens: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut documents (lengths, in order in `tokens`) into pieces of at most `context_tokens`.

    A cut comes before the last token that the sample marked for it, if the piece is then at most `syntax_slack_tokens`
    short of the context; else after the last token with a line break among the last `slack_tokens` that fit; else
    where the context ends. Returns the offsets and lengths of the pieces; together they are `tokens`.
    """
    most = len(lengths) + len(tokens) // max(context_tokens - max(slack_tokens, syntax_slack_tokens), 1) + 1
    offsets, sizes = np.empty(most, np.int64), np.empty(most, np.int64)
    n, start = 0, 0
    for length in lengths:
        end = start + length
        while end - start > context_tokens:
            limit, cut = start + context_tokens, 0
            for place in range(limit, limit - syntax_slack_tokens - 1, -1):
                if place > start and tokens[place] & CUT_BIT:
                    cut = place
                    break
            for place in range(limit, limit - slack_tokens, -1):
                if cut == 0 and line_end[tokens[place - 1] & _ID_MASK]:
                    cut = place
            cut = cut if cut else limit
            offsets[n], sizes[n] = start, cut - start
            n += 1
            start = cut
        if end > start:
            offsets[n], sizes[n] = start, end - start
            n += 1
        start = end
    return offsets[:n], sizes[:n]


@njit(cache=True, nogil=True)
def best_fit_rows(sizes: NDArray[np.int64], context_tokens: int) -> tuple[NDArray[np.int64], int]:
    """Give each piece, longest first (ties in order), the fullest row that it still fits in.

    Returns the row of each piece and the number of rows. O(1) per piece save for a scan of 64-bit words over the
    possible free sizes: rows with equal free space form a stack, a two-level bit set finds the smallest that suffices.
    """
    n = len(sizes)
    rows = np.empty(n, np.int64)
    order = np.argsort(-sizes, kind="mergesort")
    n_words = context_tokens // 64 + 1
    present = np.zeros(n_words, np.uint64)
    top = np.full(context_tokens + 1, -1, np.int64)  # by free tokens: the last row with that much free
    below = np.empty(n, np.int64)  # by row: the next row in its stack
    n_rows = 0
    for piece in order:
        size = sizes[piece]
        word = size >> 6
        bits = present[word] >> np.uint64(size & 63)
        free = -1
        if bits:
            free = size + _lowest_bit(bits)
        else:
            word += 1
            while word < n_words and present[word] == 0:
                word += 1
            if word < n_words:
                free = (word << 6) + _lowest_bit(present[word])
        if free < 0:
            row, free = n_rows, context_tokens
            n_rows += 1
        else:
            row = top[free]
            top[free] = below[row]
            if top[free] < 0:
                present[free >> 6] &= ~(np.uint64(1) << np.uint64(free & 63))
        rows[piece] = row
        left = free - size
        if left > 0:
            below[row] = top[left]
            top[left] = row
            present[left >> 6] |= np.uint64(1) << np.uint64(left & 63)
    return rows, n_rows


@njit(cache=True, nogil=True, inline="always")
def _lowest_bit(word: Any) -> int:
    n = 0
    while word & np.uint64(1) == 0:
        word >>= np.uint64(1)
        n += 1
    return n


@njit(cache=True, nogil=True)
def fill_rows(
    tokens: NDArray[np.uint32],
    pieces: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    ids: NDArray[np.uint32],
    flags: NDArray[np.uint8],
) -> None:
    """Copy pieces (offset, size, row; in order of row) into `ids` and `flags` (rows, T), which come padded.

    The first token of a piece starts a document and carries no loss: nothing before it predicts it.
    """
    offsets, sizes, rows = pieces
    place, row = 0, -1
    for n in range(len(offsets)):
        if rows[n] != row:
            place, row = 0, rows[n]
        for i in range(sizes[n]):
            token = tokens[offsets[n] + i]
            ids[row, place + i] = token & _ID_MASK
            flags[row, place + i] = LOSS if token & TRAIN_BIT else 0
        flags[row, place] = DOCUMENT_START
        place += sizes[n]
        if place < ids.shape[1]:  # padding, unless the next piece writes over it
            flags[row, place] = DOCUMENT_START


@njit(cache=True, nogil=True)
def multiset_hash(ids: NDArray[np.uint32]) -> int:
    """Return the sum modulo 2^64 of a 64-bit mix (splitmix64) of every id: equal for equal multisets, in any order."""
    total = np.uint64(0)
    for token in ids:
        mixed = np.uint64(token & _ID_MASK) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total += mixed ^ (mixed >> np.uint64(31))
    return total  # type: ignore[return-value]  # compiled: an unsigned 64-bit integer
