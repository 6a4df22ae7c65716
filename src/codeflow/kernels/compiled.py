"""What lies between matrix products on the CPU, compiled: of a decoding step, and of attention in blocks.

A decoding step at one token per row is bound by the number of calls, not by arithmetic, so each function does all of
the work between two products, for rows of any lengths at once and without masks. What lies between the products of
attention in blocks is bound by passes over memory, so each function makes one. Arithmetic is in fp32; a row's result
does not depend on the other rows. Tensors come as arrays (`arrays.as_array`): fp32 as they are, bf16 as bits in uint16.

Not covered: steps of several tokens, fp64 and accelerators; `model.decode`, `softmax` and `cpu` have torch operations
for those.

Legend: B rows, C hidden size, F intermediate size, H = G * R query heads, G key/value heads, D head dim, N cache blocks
of T tokens each.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.caching import FunctionCache
from numba.extending import intrinsic

_intrinsic: Any = intrinsic  # its calls lack the first parameter, which type checkers cannot know

# Reordering sums lets loops run in vector registers. NaN and infinity keep their meaning: a broken model must show.
_FAST = {"reassoc", "contract", "arcp", "nsz"}
_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_SMALLEST = np.float32(-87.0)  # exp of less is zero here


class _SharedCache(FunctionCache):
    """Machine code on disk, for processes that compile at the same time; one saves after the other.

    numba's own chooses the name of a file from an index that it read before: two processes that compile for two dtypes
    may choose one name, and whoever finds the wrong machine code under it from then on fails. And it looks at the
    function's own file alone, whose machine code may hold functions of the others here.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        sources = [path.stat() for path in sorted(Path(__file__).parent.glob("compiled*.py"))]
        file = self._cache_file
        file._source_stamp = file._source_stamp, *((source.st_mtime, source.st_size) for source in sources)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save what was compiled for a signature; a folder that cannot be written is numba's to complain of."""
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                Path(self.cache_path).mkdir(parents=True, exist_ok=True)
                file = held.enter_context((Path(self.cache_path) / "compiled.lock").open("a"))
                fcntl.flock(file, fcntl.LOCK_EX)
            super().save_overload(sig, data)


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile with numba, keeping machine code on disk where some folder can be written, and without where none can."""
    dispatcher: Any = numba.njit(nogil=True, fastmath=_FAST, error_model="numpy")(function)
    with contextlib.suppress(RuntimeError):  # numba found no writable place for its cache
        dispatcher._cache = _SharedCache(function)
    return dispatcher


@_intrinsic
def _wide(context: Any, value: Any) -> Any:
    """Return a stored number as fp32: itself, or the bf16 whose bits a uint16 holds."""
    if value == types.float32:
        return types.float32(value), lambda context, builder, signature, arguments: arguments[0]

    def widen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.shl(builder.zext(arguments[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(word, ir.FloatType())

    return types.float32(types.uint16), widen


@_intrinsic
def _bits(context: Any, value: Any) -> Any:
    """Return the bits of an fp32 number as uint32."""

    def cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), cast


@_intrinsic
def _float(context: Any, value: Any) -> Any:
    """Return the fp32 number with these bits (int32)."""

    def cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), cast


@_intrinsic
def _stored(context: Any, value: Any, like: Any) -> Any:
    """Return an fp32 number as numbers like `like` are stored; bf16 is rounded to nearest, ties to even."""
    if like == types.float32:
        return types.float32(types.float32, like), lambda context, builder, signature, arguments: arguments[0]

    def narrow(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(32)
        word = builder.bitcast(arguments[0], integer)
        odd = builder.and_(builder.lshr(word, ir.Constant(integer, 16)), ir.Constant(integer, 1))
        rounded = builder.add(word, builder.add(odd, ir.Constant(integer, 0x7FFF)))
        return builder.trunc(builder.lshr(rounded, ir.Constant(integer, 16)), ir.IntType(16))

    return types.uint16(types.float32, like), narrow


@_intrinsic
def _ordered(context: Any, value: Any) -> Any:
    """Return the int32 that compares as the fp32 number does; NaN lies beyond the infinities."""

    def order(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _flipped(builder, builder.bitcast(arguments[0], ir.IntType(32)))

    return types.int32(types.float32), order


@_intrinsic
def _unordered(context: Any, value: Any) -> Any:
    """Return the fp32 number of an `_ordered` one."""

    def restore(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(_flipped(builder, arguments[0]), ir.FloatType())

    return types.float32(types.int32), restore


def _flipped(builder: Any, word: Any) -> Any:
    """Flip all bits below the sign of a negative number; twice is none."""
    integer = ir.IntType(32)
    negative = builder.ashr(word, ir.Constant(integer, 31))
    return builder.xor(word, builder.and_(negative, ir.Constant(integer, 0x7FFFFFFF)))


@numba.njit(inline="always", fastmath=_FAST)
def _largest(row: Any) -> Any:
    """Return the largest number of a row as fp32; compared as integers, for LLVM keeps loops of fp32 maxima scalar."""
    found = _ordered(_wide(row[0]))
    for i in range(row.shape[0]):
        found = max(found, _ordered(_wide(row[i])))
    return _unordered(found)


@numba.njit(inline="always", fastmath=_FAST)
def _exp(x: Any) -> Any:
    """exp in fp32 to 2 units in the last place, in operations that run in vector registers."""
    x = min(max(x, _SMALLEST), np.float32(88.0))
    n = np.int32(np.floor(x * _LOG2_E + np.float32(0.5)))
    r = x - np.float32(n) * _LN2_HIGH - np.float32(n) * _LN2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return p * _float(np.int32((n + np.int32(127)) << np.int32(23)))


@_compiled
def norm(x, weight, epsilon, out):
    """Write x / rms(x) * weight to `out`; x (B, C) fp32, weight (C,) fp32, out (B, C)."""
    for b in range(x.shape[0]):
        total = np.float32(0.0)
        for c in range(x.shape[1]):
            total += x[b, c] * x[b, c]
        factor = np.float32(1.0) / np.sqrt(total / np.float32(x.shape[1]) + np.float32(epsilon))
        for c in range(x.shape[1]):
            out[b, c] = _stored(x[b, c] * factor * weight[c], out[b, c])


@_compiled
def add_norm(x, branch, scale, weight, epsilon, out):
    """Add scale * branch to the residual stream x (B, C) fp32 in place, then write its norm to `out`."""
    for b in range(x.shape[0]):
        total = np.float32(0.0)
        for c in range(x.shape[1]):
            value = x[b, c] + np.float32(scale) * _wide(branch[b, c])
            x[b, c] = value
            total += value * value
        factor = np.float32(1.0) / np.sqrt(total / np.float32(x.shape[1]) + np.float32(epsilon))
        for c in range(x.shape[1]):
            out[b, c] = _stored(x[b, c] * factor * weight[c], out[b, c])


@_compiled
def swiglu(gate_up, out):
    """Write silu(gate) * up to `out` (B, F); gate_up (B, 2 F)."""
    size = out.shape[1]
    for b in range(out.shape[0]):
        for f in range(size):
            gate = _wide(gate_up[b, f])
            value = gate / (np.float32(1.0) + _exp(-gate)) * _wide(gate_up[b, size + f])
            out[b, f] = _stored(value, out[b, f])


@numba.njit(inline="always", fastmath=_FAST)
def _turned(source, begin, turn, scale, target):
    """Write scale * the rotated head source[begin : begin + D] to `target` (D,); turn (2, D / 2): cosine and sine."""
    half = turn.shape[1]
    for d in range(half):
        first, second = _wide(source[begin + d]), _wide(source[begin + half + d])
        cosine, sine = turn[0, d], turn[1, d]
        target[d] = _stored(scale * (first * cosine - second * sine), target[d])
        target[half + d] = _stored(scale * (second * cosine + first * sine), target[half + d])


@numba.njit(inline="always", fastmath=_FAST)
def _store(qkv, n_heads, group, turn, key, value):
    """Write the new token's key (rotated) and value of one key/value head, each (D,)."""
    n_groups, size = (qkv.shape[0] // key.shape[0] - n_heads) // 2, key.shape[0]
    _turned(qkv, (n_heads + group) * size, turn, np.float32(1.0), key)
    begin = (n_heads + n_groups + group) * size
    for d in range(size):
        value[d] = _stored(_wide(qkv[begin + d]), value[d])


@_compiled
def split_heads(qkv, turns, n_tokens, q, k, v):
    """Write rotated queries q (N, H, D) and keys k (N, G, D), and values v (N, G, D), of qkv (N, (H + 2 G) D).

    Row i stands at position i % n_tokens of `turns` (positions, 2, D / 2).
    """
    n_heads, n_groups, size = q.shape[1], k.shape[1], q.shape[2]
    for i in range(qkv.shape[0]):
        turn = turns[i % n_tokens]
        for head in range(n_heads):
            _turned(qkv[i], head * size, turn, np.float32(1.0), q[i, head])
        for group in range(n_groups):
            _store(qkv[i], n_heads, group, turn, k[i, group], v[i, group])


@_compiled
def fill(k, v, blocks, n_tokens, lengths, keys, values):
    """Store keys and values k, v (B * n_tokens, G, D) of prompts of `lengths` (B,) in `blocks` (B, ...) of a cache.

    keys and values (N, G, T, D); what lies behind a prompt's length is left out.
    """
    block_tokens = keys.shape[2]
    for b in range(lengths.shape[0]):
        for t in range(lengths[b]):
            block, slot, i = blocks[b, t // block_tokens], t % block_tokens, b * n_tokens + t
            keys[block, :, slot] = k[i]
            values[block, :, slot] = v[i]


@_compiled
def softmax(scores, first, end):
    """Overwrite scores (n, rows, keys) by the softmax over keys first <= j < end of each row, zero elsewhere.

    `first` and `end` (m, positions): product i has those of i % m; the rows of a position follow each other.
    """
    weights = np.empty(scores.shape[2], np.float32)
    for i in range(scores.shape[0]):
        seen = i % first.shape[0]
        for r in range(scores.shape[1]):
            low, high = _range(first[seen], end[seen], r, scores.shape[1])
            scores[i, r, :low] = 0
            scores[i, r, high:] = 0
            row = scores[i, r, low:high]
            largest, total = _largest(row), np.float32(0.0)
            for j in range(row.shape[0]):
                weights[j] = _exp(_wide(row[j]) - largest)
                total += weights[j]
            inverse = np.float32(1.0) / total
            for j in range(row.shape[0]):
                row[j] = _stored(weights[j] * inverse, row[j])


@_compiled
def softmax_backward(weights, d_weights, first, end, terms):
    """Overwrite d_weights (n, rows, keys) by the gradient of the scores; terms (n, rows) = sum(weights * d_weights).

    The rest is as in `softmax`.
    """
    for i in range(weights.shape[0]):
        seen = i % first.shape[0]
        for r in range(weights.shape[1]):
            low, high = _range(first[seen], end[seen], r, weights.shape[1])
            d_weights[i, r, :low] = 0
            d_weights[i, r, high:] = 0
            row, d_row = weights[i, r, low:high], d_weights[i, r, low:high]
            total = np.float32(0.0)
            for j in range(row.shape[0]):
                total += _wide(row[j]) * _wide(d_row[j])
            for j in range(row.shape[0]):
                d_row[j] = _stored(_wide(row[j]) * (_wide(d_row[j]) - total), d_row[j])
            terms[i, r] = total


@numba.njit(inline="always")
def _range(first, end, row, n_rows):
    """Return first and end of a row."""
    position = row if n_rows == first.shape[0] else row // (n_rows // first.shape[0])
    return first[position], end[position]


@_compiled
def mix(wide, near, gate, out):
    """Write gate * wide + (1 - gate) * near to `out` (N, G, R, D).

    wide and near (G, N, R, D); gate (G, N, R, 1 or D) fp32.
    """
    n_gates = gate.shape[3]
    for g in range(wide.shape[0]):
        for n in range(wide.shape[1]):
            for r in range(wide.shape[2]):
                for d in range(wide.shape[3]):
                    a, b = _wide(wide[g, n, r, d]), _wide(near[g, n, r, d])
                    value = b + gate[g, n, r, d if n_gates > 1 else 0] * (a - b)
                    out[n, g, r, d] = _stored(value, out[n, g, r, d])


@_compiled
def unmix(d_out, gate, d_wide, d_near):
    """Write the gradients of `mix` by its parts to d_wide and d_near (G, N, R, D), for d_out (N, G, R, D)."""
    n_gates = gate.shape[3]
    for g in range(d_wide.shape[0]):
        for n in range(d_wide.shape[1]):
            for r in range(d_wide.shape[2]):
                for d in range(d_wide.shape[3]):
                    share = gate[g, n, r, d if n_gates > 1 else 0]
                    value = _wide(d_out[n, g, r, d])
                    d_wide[g, n, r, d] = _stored(share * value, d_wide[g, n, r, d])
                    d_near[g, n, r, d] = _stored((np.float32(1.0) - share) * value, d_near[g, n, r, d])


@_compiled
def weighted_sums(words, columns, rows):
    """Return the sums (2,) over r and c of words[r, c] * columns[k, c] * rows[k, r] modulo 2**64.

    words (R, C) int8, int16 or int32; columns (2, C) int32; rows (2, R) int64.
    """
    total = np.zeros(2, np.int64)
    for r in range(words.shape[0]):
        a, b = np.int64(0), np.int64(0)
        for c in range(words.shape[1]):
            word = np.int64(words[r, c])
            a += word * np.int64(columns[0, c])
            b += word * np.int64(columns[1, c])
        total[0] += a * rows[0, r]
        total[1] += b * rows[1, r]
    return total
