"""A decoding step on the CPU, compiled: a block's products, norms and attention in one call; the choice of tokens.

With one row every product reads each weight once for two operations, so memory decides, and beside it the number of
calls: the weights are read where they lie, nothing is joined, packed or copied. For more rows they come in panels
(`compiled_panels`). Arithmetic is in fp32, and what lies between products stays in fp32 for bf16 weights too.

Legend: B rows, C hidden size, F intermediate size, H = G * R query heads, G key/value heads, D head dim, V words, O and
I a weight's rows and columns. `weights` are those of one input, side by side: each (O, I) where B is 1, or all in one
as panels (O / 16, I, 16).
"""

from __future__ import annotations

import numba
import numpy as np

from codeflow.kernels.compiled import (
    _FAST,
    _compiled,
    _exp,
    _largest,
    _wide,
    add_norm,
    attend,
    attend_gated,
    norm,
    swiglu,
)
from codeflow.kernels.compiled_panels import product

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


@numba.njit
def _one_product(x, weight, out, begin):
    """Write the product of x (B, I) with a weight to columns of out (B, ...); returns where the next one begins."""
    if weight.ndim == 3:  # decided when it is compiled
        product(x, weight, out)
    else:
        _row_product(weight, x[0], out[0], begin)
    return begin + weight.shape[0]


@numba.njit
def _products(x, weights, out):
    """Write the products of x (B, I) with all weights to out (B, O)."""
    begin = 0
    for weight in weights:
        begin = _one_product(x, weight, out, begin)


@_compiled
def embed(table, ids, x):
    """Write the rows ids (B,) of table (V, C) to x (B, C) fp32."""
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            x[b, c] = _wide(table[ids[b], c])


@_compiled
def logits(x, norm_weight, epsilon, head, normed, out):
    """Write the logits out (B, V) behind the residual stream x (B, C); `normed` (B, C) is scratch."""
    norm(x, norm_weight, epsilon, normed)
    _products(normed, head, out)


@numba.njit(fastmath=_FAST)
def _finish(x, weights, norm_weight, epsilon, scale, scratch):
    """Add scale * output projection and scale * MLP to x (B, C), behind attention."""
    normed, mixed, branch, gate_up, grown = scratch[0], scratch[2], scratch[3], scratch[4], scratch[5]
    _products(mixed, weights[1], branch)
    add_norm(x, branch, scale, norm_weight, epsilon, normed)
    _products(normed, weights[2], gate_up)
    swiglu(gate_up, grown)
    _products(grown, weights[3], branch)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            x[b, c] += np.float32(scale) * branch[b, c]


@_compiled
def block(x, layer, epsilon, place, first, scratch):
    """Run one block of the first loop on the residual stream x (B, C) fp32, in place.

    `layer` is (weights, norms): those of (q, k, v), (o), (gate, up) and (down), and the two norms' (C,). `place` is
    (turns, where), which like `first` are as in `attend`. `scratch`, all fp32: (B, C), (B, (H + 2 G) D), (B, H D),
    (B, C), (B, 2 F), (B, F).
    """
    weights, norms = layer
    turns, where = place
    norm(x, norms[0], epsilon, scratch[0])
    _products(scratch[0], weights[0], scratch[1])
    attend(scratch[1], turns, where, first, scratch[2].shape[1] // first[0].shape[3], scratch[2])
    _finish(x, weights, norms[1], epsilon, 1.0, scratch)


@_compiled
def block_gated(x, layer, numbers, place, first, later, scratch):
    """Run one block of a later loop: as `block`; `numbers` are epsilon and the scale of its branches.

    `later` is (ring, gate), as in `attend_gated`.
    """
    weights, norms = layer
    epsilon, scale = numbers
    turns, where = place
    ring, gate = later
    norm(x, norms[0], epsilon, scratch[0])
    _products(scratch[0], weights[0], scratch[1])
    attend_gated(scratch[1], turns, where, first, ring, gate, scratch[2])
    _finish(x, weights, norms[1], epsilon, scale, scratch)


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
