"""Records -> Arrow arrays, a column at a time, by what their annotations say.

The same arrays as from rows of plain values (`records.to_row`), without making those.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any

import pyarrow as pa

PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """Return the types of a record's fields."""
    return typing.get_type_hints(kind)


@functools.cache
def arrow_type(hint: Any) -> pa.DataType:
    """Return the Arrow type of a field."""
    if hint in PLAIN:
        return PLAIN[hint]
    if dataclasses.is_dataclass(hint):
        return pa.struct(
            [pa.field(name, arrow_type(inner)) for name, inner in hints_of(typing.cast(type, hint)).items()]
        )
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return pa.list_(arrow_type(arguments[0]))
    if origin is dict:
        return pa.map_(pa.string(), arrow_type(arguments[1]))
    if origin is types.UnionType:
        return arrow_type(_present(arguments))
    raise TypeError(f"no Parquet column for {hint}")


def _present(arguments: tuple[Any, ...]) -> Any:
    return next(a for a in arguments if a is not type(None))


def array_of(hint: Any, values: Sequence[Any]) -> pa.Array:
    """Return the column of a field's values."""
    if hint in PLAIN:
        return pa.array(values, PLAIN[hint])
    if dataclasses.is_dataclass(hint):
        fields = hints_of(typing.cast(type, hint))
        columns = [array_of(inner, list(map(attrgetter(name), values))) for name, inner in fields.items()]
        return pa.StructArray.from_arrays(columns, fields=list(arrow_type(hint)))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return _lists(arrow_type(hint), arguments[0], values)
    if origin is dict:  # one order, so that equal records are equal bytes
        return pa.array([sorted(value.items()) for value in values], arrow_type(hint))
    inner = _present(arguments)
    if inner in PLAIN:
        return pa.array(values, PLAIN[inner])
    present = [value for value in values if value is not None]
    numbers = iter(range(len(present)))
    places = [None if value is None else next(numbers) for value in values]
    return array_of(inner, present).take(pa.array(places, pa.int64()))


def _lists(kind: pa.DataType, inner: Any, values: Sequence[Any]) -> pa.Array:
    ends = pa.array([0, *accumulate(map(len, values))], pa.int32())
    return pa.ListArray.from_arrays(ends, array_of(inner, list(chain.from_iterable(values))), type=kind)


@functools.cache
def counter(hint: Any) -> Callable[[Any], int] | None:
    """Return a function that counts the characters of a value; None where there are never any.

    The keys of dictionaries do not count.
    """
    if hint is str:
        return _length
    if hint in PLAIN:
        return None
    if dataclasses.is_dataclass(hint):
        return _field_counter(typing.cast(type, hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    inner = arguments[1] if origin is dict else arguments[0] if origin is tuple else _present(arguments)
    count = counter(inner)
    if count is None:
        return None
    if origin is dict:
        return lambda value: sum(map(count, value.values()))
    if origin is tuple:
        return lambda value: sum(map(count, value))
    return lambda value: 0 if value is None else count(value)


def _length(text: str | None) -> int:
    return len(text) if text else 0


def _field_counter(kind: type) -> Callable[[Any], int] | None:
    parts: list[tuple[Callable[[Any], Any], Callable[[Any], int]]] = []
    for name, hint in hints_of(kind).items():
        count = counter(hint)
        if count is not None:
            parts.append((attrgetter(name), count))
    return (lambda value: sum([count(get(value)) for get, count in parts])) if parts else None
