"""Matrix products on one thread of a CPU with AVX-512, in fp32 arithmetic, for weights in fp32 or bf16.

A weight is cut into panels of sixteen outputs, stored input after input. A tile of rows and panels keeps its sums in
vector registers while it walks along the inputs: per input one vector of each panel, and each row's number for all its
lanes. bf16 weights are widened on the way; they take half the memory and, where a processor has no bf16 instructions,
are no slower than fp32. Each sum is made in the order of the inputs, so a row does not depend on the rows beside it.

With few rows the weights come from afar: they are fetched ahead, and a panel is used for all rows before the next.

Legend: B rows, I inputs, O outputs, P = O / 16 panels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from numba.core import types

from codeflow.kernels import compiled_vectors as vectors
from codeflow.kernels.compiled import _compiled, _intrinsic
from codeflow.kernels.compiled_vectors import LANES

_UNROLL = 2  # inputs per turn of the loop
_AHEAD = 32  # inputs that weights are fetched ahead: 2 KiB in fp32
_BAND = 4  # panels that all rows use before the next ones; they and the rows stay in the first two caches


def _load_ahead(builder: Any, place: Any) -> Any:
    """Return the sixteen numbers at `place`, and fetch those that come later."""
    vectors.fetch(builder, builder.gep(place, [vectors.number(_AHEAD * LANES)]))
    return vectors.load(builder, place)


def _make_tile(n_rows: int, n_panels: int) -> Any:
    """Return a function that writes the sums of `n_rows` rows by `n_panels` panels."""

    @_intrinsic
    def tile(context: Any, x: Any, row: Any, packed: Any, panel: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (given, _), (weights, (_, size, _)), (sums, (_, width)) = vectors.arrays(
                context, builder, signature.args, arguments
            )
            lanes = vectors.number(LANES)
            rows = [builder.add(arguments[1], vectors.number(r)) for r in range(n_rows)]
            panels = [builder.add(arguments[3], vectors.number(p)) for p in range(n_panels)]
            x_rows = [vectors.at(builder, given, size, r) for r in rows]
            w_panels = [vectors.at(builder, weights, builder.mul(size, lanes), p) for p in panels]

            before, loop = builder.block, builder.append_basic_block("inputs")
            after = builder.append_basic_block("stores")
            builder.branch(loop)
            builder.position_at_end(loop)
            place = builder.phi(vectors.INT64)
            place.add_incoming(vectors.number(0), before)
            begun = [[builder.phi(vectors.VECTOR) for _ in panels] for _ in rows]
            made: list[list[Any]] = [list(some) for some in begun]
            for step in range(_UNROLL):
                here = builder.add(place, vectors.number(step))
                columns = [_load_ahead(builder, vectors.at(builder, w, lanes, here)) for w in w_panels]
                for some, x_row in zip(made, x_rows, strict=True):
                    value = vectors.spread(builder, builder.load(builder.gep(x_row, [here])))
                    some[:] = [
                        vectors.multiply_add(builder, value, column, old)
                        for column, old in zip(columns, some, strict=True)
                    ]
            for old_row, new_row in zip(begun, made, strict=True):
                for old, new in zip(old_row, new_row, strict=True):
                    old.add_incoming(vectors.ZEROS, before)
                    old.add_incoming(new, loop)
            following = builder.add(place, vectors.number(_UNROLL))
            place.add_incoming(following, loop)
            builder.cbranch(builder.icmp_signed("<", following, size), loop, after)
            builder.position_at_end(after)
            for r, some in zip(rows, made, strict=True):
                for p, value in zip(panels, some, strict=True):
                    vectors.store(builder, value, vectors.at(builder, sums, width, r, builder.mul(p, lanes)))
            return context.get_dummy_value()

        return types.void(x, types.intp, packed, types.intp, out), generate

    return tile


def _make_band(n_rows: int, n_panels: int) -> Any:
    """Return a function for `n_rows` rows from `row` by panels first to last, `n_panels` at a time and then singly."""
    wide, single = _make_tile(n_rows, n_panels), _make_tile(n_rows, 1)

    @numba.njit
    def band(x, row, packed, first, last, out):
        whole = last - (last - first) % n_panels
        for panel in range(first, whole, n_panels):
            wide(x, row, packed, panel, out)
        for panel in range(whole, last):
            single(x, row, packed, panel, out)

    return band


_eight, _four, _one = _make_band(8, 2), _make_band(4, 4), _make_band(1, 4)  # sixteen sums where there are four rows


@_compiled
def product(x, packed, out):
    """Write x (B, I) fp32 times the packed weights (P, I, 16) to out (B, O) fp32; all contiguous, I even."""
    n_rows, n_panels = x.shape[0], packed.shape[0]
    for first in range(0, n_panels, _BAND):
        last, row = min(first + _BAND, n_panels), 0
        while row + 8 <= n_rows:
            _eight(x, row, packed, first, last, out)
            row += 8
        if row + 4 <= n_rows:
            _four(x, row, packed, first, last, out)
            row += 4
        while row < n_rows:
            _one(x, row, packed, first, last, out)
            row += 1


@_compiled
def _fill(weight, packed, begin):
    """Write weight (O, I) as the outputs from `begin` on."""
    n_rows, row = weight.shape[0], 0
    while row < n_rows:
        panel, lane = (begin + row) // LANES, (begin + row) % LANES
        if lane == 0 and row + LANES <= n_rows:
            for i in range(weight.shape[1]):
                for k in range(LANES):
                    packed[panel, i, k] = weight[row + k, i]
            row += LANES
        else:
            for i in range(weight.shape[1]):
                packed[panel, i, lane] = weight[row, i]
            row += 1


def pack(weights: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return weights (O, I) of one input, fp32 or bf16 bits, as panels (P, I, 16), their outputs side by side.

    Raises ValueError where the outputs of all are no multiple of 16 or the inputs are odd.
    """
    shapes = [weight.shape for weight in weights]
    if not fits(shapes):
        raise ValueError(f"weights of shapes {shapes} cannot be cut into panels of {LANES}")
    packed = np.empty((sum(map(len, weights)) // LANES, shapes[0][1], LANES), weights[0].dtype)
    begin = 0
    for weight in weights:
        _fill(weight, packed, begin)
        begin += len(weight)
    return packed


def fits(shapes: Sequence[Sequence[int]]) -> bool:
    """True where weights of these shapes (O, I) can be packed side by side."""
    return sum(shape[0] for shape in shapes) % LANES == 0 and shapes[0][1] % _UNROLL == 0
