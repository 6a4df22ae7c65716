"""A decoding step on the CPU, compiled: from token ids to logits in one call; the choice of tokens.

With one row every product reads each weight once for two operations, so memory decides, and beside it all that runs
between products, Python most of all, whose own memory the weights push out of the caches. The weights are read where
they lie, nothing is joined, packed or copied. For more rows they come in panels (`compiled_panels`). Arithmetic is in
fp32, and what lies between products stays in fp32 for bf16 weights too.

Legend: B rows, L layers, C hidden size, F intermediate size, H = G * R query heads, G key/value heads, D head dim, V
words, O and I a weight's rows and columns, N cache blocks of T tokens each, W ring size. Weights of one input are side
by side: each (O, I) where B is 1, or all in one as panels (O / 16, I, 16).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.np.numpy_support import carray

from codeflow.kernels.compiled import (
    _FAST,
    _compiled,
    _exp,
    _intrinsic,
    _largest,
    _wide,
    add_norm,
    norm,
    swiglu,
)
from codeflow.kernels.compiled_attention import attend, attend_gated
from codeflow.kernels.compiled_panels import LANES, product

_SEARCHED = 256  # logits looked at in one go


@numba.njit(fastmath=_FAST)
def _row_product(weight, x, out, begin):
    """Write weight (O, I) @ x (I,) to out[begin : begin + O]; four rows at a time, for their sums to overlap."""
    n_rows, size = weight.shape
    whole = n_rows - n_rows % 4
    for i in range(0, whole, 4):
        a, b, c, d = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for j in range(size):
            value = x[j]
            a += _wide(weight[i, j]) * value
            b += _wide(weight[i + 1, j]) * value
            c += _wide(weight[i + 2, j]) * value
            d += _wide(weight[i + 3, j]) * value
        out[begin + i], out[begin + i + 1], out[begin + i + 2], out[begin + i + 3] = a, b, c, d
    for i in range(whole, n_rows):
        a = np.float32(0.0)
        for j in range(size):
            a += _wide(weight[i, j]) * x[j]
        out[begin + i] = a


@_intrinsic
def _pointer(context: Any, address: Any, like: Any) -> Any:
    """Return a pointer to numbers like those of an array."""
    kind = types.CPointer(like.dtype)

    def cast(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(types.int64, like), cast


def locate(weights: Sequence[Sequence[np.ndarray[Any, Any]]]) -> np.ndarray[Any, Any]:
    """Return where each layer's weights lie, (L, weights, 3) int64: address, outputs and inputs; keep them alive."""
    assert all(one.flags.c_contiguous for layer in weights for one in layer), "only the first place of each is kept"
    places = [[(one.ctypes.data, one.size // one.shape[1], one.shape[1]) for one in layer] for layer in weights]
    return np.array(places, np.int64)


@numba.njit
def _weight(place, like):
    """Return the weight at a place; its form is that of `like`."""
    start = _pointer(place[0], like)
    if like.ndim == 3:  # decided when it is compiled
        return carray(start, (place[1] // LANES, place[2], LANES))
    return carray(start, (place[1], place[2]))


@numba.njit
def _one_product(x, weight, out, begin):
    """Write the product of x (B, I) with a weight to columns of out (B, ...) from `begin` on."""
    if weight.ndim == 3:  # decided when it is compiled
        product(x, weight, out)
    else:
        _row_product(weight, x[0], out[0], begin)


@numba.njit
def _products(x, places, like, out):
    """Write the products of x (B, I) with the weights at `places` to out (B, O), side by side."""
    begin = 0
    for i in range(places.shape[0]):
        _one_product(x, _weight(places[i], like), out, begin)
        begin += places[i, 1]


@numba.njit
def _n_qkv(places):
    """Return how many of a layer's weights those of q, k and v are: seven lie apart, or four with joined ones."""
    return 3 if places.shape[0] == 7 else 1


@numba.njit(fastmath=_FAST)
def _finish(x, places, like, norm_weight, numbers, scratch):
    """Add output projection and MLP, scaled, to x (B, C), behind attention."""
    normed, mixed, branch, gate_up, grown = scratch[0], scratch[2], scratch[3], scratch[4], scratch[5]
    epsilon, scale = numbers
    output = _n_qkv(places)
    _products(mixed, places[output : output + 1], like, branch)
    add_norm(x, branch, scale, norm_weight, epsilon, normed)
    _products(normed, places[output + 1 : -1], like, gate_up)
    swiglu(gate_up, grown)
    _products(grown, places[-1:], like, branch)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            x[b, c] += np.float32(scale) * branch[b, c]


@_compiled
def step(ids, where, model, caches, numbers, scratch, out):
    """Write the logits out (B, V) fp32 behind ids (B,), whose keys and values are stored.

    `where` is (turns, (rows, lengths, table)), as in `attend`. `model` is (table (V, C), weights, norms (2 L + 1, C),
    head, gates): the weights' places (`locate`), two norms of each layer and the last one, the gates' (L, H, D) and
    (L, H). `caches` are pool (2, L, N, G, T, D) and rings (2, loops - 1, L, cache rows, G, W, D), `numbers` epsilon and
    the scale of later loops' branches. `scratch`, all fp32: (B, C) twice, (B, (H + 2 G) D), (B, H D), (B, C), (B, 2 F),
    (B, F).
    """
    turns, rows = where
    table, weights, norms, head, gates = model
    pool, rings = caches
    epsilon, scale = numbers
    x, normed, qkv, mixed = scratch[0], scratch[1], scratch[2], scratch[3]
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            x[b, c] = _wide(table[ids[b], c])
    n_layers = weights.shape[0]
    for loop in range(rings.shape[1] + 1):
        for i in range(n_layers):
            norm(x, norms[2 * i], epsilon, normed)
            _products(normed, weights[i, : _n_qkv(weights[i])], head, qkv)
            first = pool[0, i], pool[1, i]
            if loop == 0:
                attend(qkv, turns, rows, first, mixed.shape[1] // pool.shape[5], mixed)
            else:
                ring = rings[0, loop - 1, i], rings[1, loop - 1, i]
                attend_gated(qkv, turns, rows, first, ring, (gates[0][i], gates[1][i]), mixed)
            _finish(x, weights[i], head, norms[2 * i + 1], (epsilon, scale if loop else 1.0), scratch[1:])
    norm(x, norms[2 * n_layers], epsilon, normed)
    _one_product(normed, head, out, 0)


@numba.njit(inline="always", fastmath=_FAST)
def _holds(row, value):
    """True where a row holds a number; without leaving early, so that it runs in vector registers."""
    found = 0
    for i in range(row.shape[0]):
        found += row[i] == value
    return found > 0


@_compiled
def greedy(logits, chosen, logprobs):
    """Write where each row of logits (B, V) is largest to `chosen`, and its log-probability to `logprobs`, both (B,).

    The first of equals is taken. A row with NaN or +infinity has the log-probability NaN.
    """
    for b in range(logits.shape[0]):
        row = logits[b]
        largest = _largest(row)
        index = 0
        while index + _SEARCHED < row.shape[0] and not _holds(row[index : index + _SEARCHED], largest):
            index += _SEARCHED
        while index < row.shape[0] - 1 and row[index] != largest:
            index += 1
        total = np.float32(0.0)
        for v in range(row.shape[0]):
            total += _exp(row[v] - largest)
        chosen[b], logprobs[b] = index, -np.log(total)
