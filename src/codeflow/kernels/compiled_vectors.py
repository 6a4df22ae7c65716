"""Vectors of sixteen fp32 numbers in compiled functions, for loops that LLVM does not put into vector registers well.

Written as LLVM's own vectors, so that a processor with narrower registers uses several for one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 16

INT32, INT64, BYTES = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
VECTOR = ir.VectorType(ir.FloatType(), LANES)
ZEROS = ir.Constant(VECTOR, [0.0] * LANES)


def number(value: int) -> Any:
    """Return a 64-bit integer."""
    return ir.Constant(INT64, value)


def arrays(context: Any, builder: Any, kinds: Any, arguments: Any) -> list[Any]:
    """Return (data, shape) of the arguments that are arrays, which are contiguous."""
    found = []
    for kind, argument in zip(kinds, arguments, strict=True):
        if hasattr(kind, "dtype"):
            array = context.make_array(kind)(context, builder, argument)
            found.append((array.data, cgutils.unpack_tuple(builder, array.shape)))
    return found


def at(builder: Any, data: Any, width: Any, row: Any, column: Any = None) -> Any:
    """Return the place of [row, column] in rows of `width` numbers."""
    place = builder.mul(row, width)
    return builder.gep(data, [place if column is None else builder.add(place, column)])


def load(builder: Any, place: Any) -> Any:
    """Return the sixteen numbers at `place`, fp32 or bf16 bits, in fp32."""
    if place.type.pointee == ir.FloatType():
        return builder.load(builder.bitcast(place, VECTOR.as_pointer()), align=4)
    words = builder.load(builder.bitcast(place, ir.VectorType(ir.IntType(16), LANES).as_pointer()), align=2)
    return builder.bitcast(builder.shl(builder.zext(words, ir.VectorType(INT32, LANES)), _times(16)), VECTOR)


def store(builder: Any, vector: Any, place: Any) -> None:
    """Write sixteen numbers to `place` in fp32."""
    builder.store(vector, builder.bitcast(place, VECTOR.as_pointer()), align=4)


def fetch(builder: Any, place: Any) -> None:
    """Ask for the line of `place`, which will be read later."""
    kind = ir.FunctionType(ir.VoidType(), [BYTES, INT32, INT32, INT32])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(prefetch, [builder.bitcast(place, BYTES), *(ir.Constant(INT32, hint) for hint in (0, 3, 1))])


def spread(builder: Any, value: Any) -> Any:
    """Return a vector with `value` in all lanes."""
    nothing = ir.Constant(VECTOR, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nothing, value, ir.Constant(INT32, 0)), nothing, _times(0))


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fma.v16f32"), [a, b, c])


def total(builder: Any, vector: Any) -> Any:
    """Return the sum of the lanes, in a tree."""
    kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), VECTOR])
    add = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.fadd.v16f32")
    return builder.call(add, [ir.Constant(ir.FloatType(), -0.0), vector], fastmath=("reassoc",))


def _times(count: int) -> Any:
    """Return the same 32-bit integer in all lanes."""
    return ir.Constant(ir.VectorType(INT32, LANES), [count] * LANES)
