"""A decoding step of a single row on the CPU, compiled whole: products, norms and attention of a block in one call.

With one row every product reads each weight once for two operations, so memory decides, and beside it the number of
calls. The weights are read where they lie: nothing is joined, packed or copied. Arithmetic is in fp32, and what lies
between products stays in fp32 for bf16 weights too.

Legend: C hidden size, F intermediate size, H = G * R query heads, G key/value heads, D head dim, V words, O and I a
weight's rows and columns.
"""

from __future__ import annotations

import numba
import numpy as np

from codeflow.kernels.compiled import _FAST, _compiled, _wide, add_norm, attend, attend_gated, norm, swiglu


@numba.njit(fastmath=_FAST)
def _product(weight, x, out, begin):
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


@_compiled
def embed(table, token, x):
    """Write a token's row of table (V, C) to x (1, C) fp32."""
    for c in range(x.shape[1]):
        x[0, c] = _wide(table[token, c])


@_compiled
def logits(x, norm_weight, epsilon, head, normed, out):
    """Write the logits out (1, V) behind the residual stream x (1, C); `normed` (1, C) is scratch."""
    norm(x, norm_weight, epsilon, normed)
    _product(head, normed[0], out[0], 0)


@numba.njit(fastmath=_FAST)
def _project(x, weights, norm_weight, epsilon, scratch):
    """Write the queries, keys and values of a normed x (1, C), side by side."""
    normed, qkv = scratch[0], scratch[1]
    norm(x, norm_weight, epsilon, normed)
    begin = 0
    for i in range(3):
        _product(weights[i], normed[0], qkv[0], begin)
        begin += weights[i].shape[0]


@numba.njit(fastmath=_FAST)
def _finish(x, weights, norm_weight, epsilon, scale, scratch):
    """Add scale * output projection and scale * MLP to x (1, C), behind attention."""
    normed, mixed, branch, gate_up, grown = scratch[0], scratch[2], scratch[3], scratch[4], scratch[5]
    _product(weights[3], mixed[0], branch[0], 0)
    add_norm(x, branch, scale, norm_weight, epsilon, normed)
    _product(weights[4], normed[0], gate_up[0], 0)
    _product(weights[5], normed[0], gate_up[0], weights[4].shape[0])
    swiglu(gate_up, grown)
    _product(weights[6], grown[0], branch[0], 0)
    for c in range(x.shape[1]):
        x[0, c] += np.float32(scale) * branch[0, c]


@_compiled
def block(x, layer, epsilon, place, first, scratch):
    """Run one block of the first loop on the residual stream x (1, C) fp32, in place.

    `layer` is (weights, norms): weights of q, k, v, o, gate, up and down, each (O, I), and the two norms' (C,). `place`
    is (turns, where), which like `first` are as in `attend`. `scratch`, all fp32: (1, C), (1, (H + 2 G) D), (1, H D),
    (1, C), (1, 2 F), (1, F).
    """
    weights, norms = layer
    turns, where = place
    _project(x, weights, norms[0], epsilon, scratch)
    attend(scratch[1], turns, where, first, weights[0].shape[0] // first[0].shape[3], scratch[2])
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
    _project(x, weights, norms[0], epsilon, scratch)
    attend_gated(scratch[1], turns, where, first, ring, gate, scratch[2])
    _finish(x, weights, norms[1], epsilon, scale, scratch)
