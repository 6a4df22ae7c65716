"""Attention of one new token per row to keys and values in a cache, compiled.

A key's product with a query, and the weighted sum of values, are loops over a head that are too short to be put into
vector registers well by LLVM: they are written as vectors where a head is a whole number of them.

Legend: B rows, H = G * R query heads, G key/value heads, D head dim, N cache blocks of T tokens each, W ring size.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types

from codeflow.kernels import compiled_vectors as vectors
from codeflow.kernels.compiled import _FAST, _compiled, _exp, _intrinsic, _largest, _store, _stored, _turned, _wide
from codeflow.kernels.compiled_vectors import LANES

_TOKENS = 8  # keys whose products with a query are made side by side
_PANELS = 4  # vectors of a head whose sums stay in registers


def _make_products(n_tokens: int) -> Any:
    """Return a function that writes q[r] . block[token + i] to scores[r, begin + i] for i < n_tokens."""

    @_intrinsic
    def products(context: Any, q: Any, r: Any, block: Any, token: Any, scores: Any, begin: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (query, (_, size)), (keys, _), (out, (_, width)) = vectors.arrays(
                context, builder, signature.args, arguments
            )
            sums = [cgutils.alloca_once_value(builder, vectors.ZEROS) for _ in range(n_tokens)]
            tokens = [builder.add(arguments[3], vectors.number(i)) for i in range(n_tokens)]
            with cgutils.for_range(builder, builder.udiv(size, vectors.number(LANES))) as loop:
                here = builder.mul(loop.index, vectors.number(LANES))
                value = vectors.load(builder, vectors.at(builder, query, size, arguments[1], here))
                for total, place in zip(sums, tokens, strict=True):
                    key = vectors.load(builder, vectors.at(builder, keys, size, place, here))
                    builder.store(vectors.multiply_add(builder, value, key, builder.load(total)), total)
            for i, total in enumerate(sums):
                place = builder.add(arguments[5], vectors.number(i))
                builder.store(
                    vectors.total(builder, builder.load(total)), vectors.at(builder, out, width, arguments[1], place)
                )
            return context.get_dummy_value()

        return types.void(q, types.intp, block, types.intp, scores, types.intp), generate

    return products


def _make_mixture(n_panels: int) -> Any:
    """Return a function that adds the sum over t < used of scores[r, begin + t] * block[t] to result[r].

    It does so for `n_panels` vectors from number `first` of a head on.
    """

    @_intrinsic
    def mixture(context: Any, scores: Any, r: Any, begin: Any, block: Any, used: Any, first: Any, result: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (weights, (_, width)), (values, _), (out, (_, size)) = vectors.arrays(
                context, builder, signature.args, arguments
            )
            starts = [
                builder.mul(builder.add(arguments[5], vectors.number(i)), vectors.number(LANES))
                for i in range(n_panels)
            ]
            targets = [vectors.at(builder, out, size, arguments[1], start) for start in starts]
            sums = [cgutils.alloca_once_value(builder, vectors.load(builder, target)) for target in targets]
            with cgutils.for_range(builder, arguments[4]) as loop:
                place = vectors.at(builder, weights, width, arguments[1], builder.add(arguments[2], loop.index))
                weight = vectors.spread(builder, builder.load(place))
                for total, start in zip(sums, starts, strict=True):
                    value = vectors.load(builder, vectors.at(builder, values, size, loop.index, start))
                    builder.store(vectors.multiply_add(builder, weight, value, builder.load(total)), total)
            for total, target in zip(sums, targets, strict=True):
                vectors.store(builder, builder.load(total), target)
            return context.get_dummy_value()

        i = types.intp
        return types.void(scores, i, i, block, i, i, result), generate

    return mixture


_many_products, _one_product = _make_products(_TOKENS), _make_products(1)
_wide_mixture, _one_mixture = _make_mixture(_PANELS), _make_mixture(1)


@numba.njit(fastmath=_FAST)
def _scores(q, block, begin, used, scores):
    """Write the products of q (R, D) with the first `used` keys of block (T, D) to scores[:, begin:]."""
    size = q.shape[1]
    for r in range(q.shape[0]):
        if size % LANES == 0:
            whole = used - used % _TOKENS
            for t in range(0, whole, _TOKENS):
                _many_products(q, r, block, t, scores, begin + t)
            for t in range(whole, used):
                _one_product(q, r, block, t, scores, begin + t)
        else:
            for t in range(used):
                total = np.float32(0.0)
                for d in range(size):
                    total += q[r, d] * _wide(block[t, d])
                scores[r, begin + t] = total


@numba.njit(fastmath=_FAST)
def _mix(scores, begin, block, used, result):
    """Add the sums of the first `used` values of block (T, D), weighted by scores[:, begin:], to result (R, D)."""
    size = result.shape[1]
    n_panels = size // LANES
    for r in range(result.shape[0]):
        if size % LANES == 0:
            whole = n_panels - n_panels % _PANELS
            for panel in range(0, whole, _PANELS):
                _wide_mixture(scores, r, begin, block, used, panel, result)
            for panel in range(whole, n_panels):
                _one_mixture(scores, r, begin, block, used, panel, result)
        else:
            for t in range(used):
                for d in range(size):
                    result[r, d] += scores[r, begin + t] * _wide(block[t, d])


@numba.njit(fastmath=_FAST)
def _attend(q, keys, values, group, blocks, n_tokens, scores, result):
    """Attention of R queries (R, D), scaled, to the first n_tokens of `blocks` in keys and values (N, G, T, D).

    Writes fp32 `result` (R, D); `scores` (R, at least n_tokens) is scratch.
    """
    n_queries, size, block_tokens = q.shape[0], q.shape[1], keys.shape[2]
    for begin in range(0, n_tokens, block_tokens):
        _scores(q, keys[blocks[begin // block_tokens], group], begin, min(block_tokens, n_tokens - begin), scores)
    for r in range(n_queries):
        largest = _largest(scores[r, :n_tokens])
        total = np.float32(0.0)
        for t in range(n_tokens):
            weight = _exp(scores[r, t] - largest)
            scores[r, t] = weight
            total += weight
        inverse = np.float32(1.0) / total
        for t in range(n_tokens):
            scores[r, t] *= inverse
        for d in range(size):
            result[r, d] = np.float32(0.0)
    for begin in range(0, n_tokens, block_tokens):
        _mix(scores, begin, values[blocks[begin // block_tokens], group], min(block_tokens, n_tokens - begin), result)


@_compiled
def attend(qkv, turns, where, first, n_heads, out):
    """Attention of the first loop for one new token per row, whose key and value it stores.

    qkv (B, (H + 2 G) D); turns (positions, 2, D / 2) fp32; out (B, H D). `first` are keys and values (N, G, T, D).
    `where` is (rows, lengths, table): rows (B,) are cache rows, lengths (cache rows,) the tokens that each holds before
    this one, table (cache rows, ...) its blocks.
    """
    rows, lengths, table = where
    keys, values = first
    size, block_tokens, n_groups = keys.shape[3], keys.shape[2], keys.shape[1]
    repeats = n_heads // n_groups
    scale = np.float32(1.0) / np.sqrt(np.float32(size))
    longest = 0
    for b in range(rows.shape[0]):
        longest = max(longest, lengths[rows[b]] + 1)
    scores = np.empty((repeats, longest), np.float32)
    q, mixed = np.empty((repeats, size), np.float32), np.empty((repeats, size), np.float32)
    for b in range(rows.shape[0]):
        row, at = rows[b], lengths[rows[b]]
        block, slot, turn = table[row, at // block_tokens], at % block_tokens, turns[at]
        for group in range(n_groups):
            _store(qkv[b], n_heads, group, turn, keys[block, group, slot], values[block, group, slot])
            for r in range(repeats):
                _turned(qkv[b], (group * repeats + r) * size, turn, scale, q[r])
            _attend(q, keys, values, group, table[row], at + 1, scores, mixed)
            for r in range(repeats):
                for d in range(size):
                    place = (group * repeats + r) * size + d
                    out[b, place] = _stored(mixed[r, d], out[b, place])


@_compiled
def attend_gated(qkv, turns, where, first, ring, gate, out):
    """Attention of a later loop: g * global + (1 - g) * window; stores the new key and value in the ring.

    `first` and `ring` are pairs (keys, values): of the first loop (N, G, T, D) and of this one (cache rows, G, W, D).
    `gate` is (weight (H, D), bias (H,)) in fp32; the rest is as in `attend`.
    """
    rows, lengths, table = where
    keys, values = first
    ring_keys, ring_values = ring
    gate_weight, gate_bias = gate
    size, n_groups, window, n_heads = keys.shape[3], keys.shape[1], ring_keys.shape[2], gate_bias.shape[0]
    repeats = n_heads // n_groups
    scale = np.sqrt(np.float32(size))
    longest = window
    for b in range(rows.shape[0]):
        longest = max(longest, lengths[rows[b]] + 1)
    scores = np.empty((repeats, longest), np.float32)
    q, gates = np.empty((repeats, size), np.float32), np.empty(repeats, np.float32)
    wide, near = np.empty((repeats, size), np.float32), np.empty((repeats, size), np.float32)
    for b in range(rows.shape[0]):
        row, at = rows[b], lengths[rows[b]]
        turn = turns[at]
        for group in range(n_groups):
            slot = at % window
            _store(qkv[b], n_heads, group, turn, ring_keys[row, group, slot], ring_values[row, group, slot])
            for r in range(repeats):
                head = group * repeats + r
                _turned(qkv[b], head * size, turn, np.float32(1.0) / scale, q[r])
                total = np.float32(0.0)
                for d in range(size):
                    total += q[r, d] * gate_weight[head, d]
                gates[r] = np.float32(1.0) / (np.float32(1.0) + _exp(-(total * scale + gate_bias[head])))
            _attend(q, keys, values, group, table[row], at + 1, scores, wide)
            _attend(q, ring_keys, ring_values, group, rows[b : b + 1], min(at + 1, window), scores, near)
            for r in range(repeats):
                for d in range(size):
                    place = (group * repeats + r) * size + d
                    value = near[r, d] + gates[r] * (wide[r, d] - near[r, d])
                    out[b, place] = _stored(value, out[b, place])
