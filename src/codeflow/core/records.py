"""Parquet (zstd) files of the types in core/types.py; the schema follows from the annotations.

str -> string, int -> int64, float -> double, tuple[X, ...] -> list, dict[str, X] -> map, X | None -> nullable,
a dataclass -> struct.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from codeflow.core.errors import UserError
from codeflow.core.storage import atomic_path

T = TypeVar("T")
_ROWS_PER_GROUP = 1024  # bounds memory on both sides: a reader holds one row group,
_CHARACTERS_PER_GROUP = 64_000_000  # which is also bounded in text, as a commit may hold megabytes
_PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _arrow(hint: Any) -> pa.DataType:
    if hint in _PLAIN:
        return _PLAIN[hint]
    if dataclasses.is_dataclass(hint):
        return pa.struct([pa.field(name, _arrow(inner)) for name, inner in _hints(typing.cast(type, hint)).items()])
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return pa.list_(_arrow(arguments[0]))
    if origin is dict:
        return pa.map_(pa.string(), _arrow(arguments[1]))
    if origin is types.UnionType:
        return _arrow(next(a for a in arguments if a is not type(None)))
    raise TypeError(f"no Parquet column for {hint}")


@functools.cache
def schema_of(kind: type) -> pa.Schema:
    """Return the Arrow schema of a record type."""
    return pa.schema([pa.field(name, _arrow(hint)) for name, hint in _hints(kind).items()])


@functools.cache
def _names(kind: type) -> tuple[str, ...] | None:
    """Return the names of a dataclass's fields; None for other types."""
    return tuple(item.name for item in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None


def to_row(value: Any) -> Any:
    """Return the plain JSON-able form of a record."""
    names = _names(type(value))
    if names is not None:
        return {name: to_row(getattr(value, name)) for name in names}
    if isinstance(value, tuple):
        return [to_row(item) for item in value]
    return value


def from_row(kind: Any, row: Any) -> Any:
    """Build a record of `kind` from its plain form (a row of `to_pylist`, or JSON)."""
    return _builder(kind)(row)


@functools.cache
def _builder(kind: Any) -> Callable[[Any], Any]:
    """Return what builds a value of `kind` from its plain form, put together once for all rows."""
    if kind in _PLAIN:
        return lambda row: row
    if dataclasses.is_dataclass(kind):
        fields = tuple((name, _builder(hint)) for name, hint in _hints(typing.cast(type, kind)).items())
        # A field that is younger than the row has its default.
        return _unless_none(lambda row: kind(**{name: build(row[name]) for name, build in fields if name in row}))  # type: ignore[operator]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        item = _builder(arguments[0])
        return _unless_none(lambda row: tuple(map(item, row)))
    if origin is dict:
        value = _builder(arguments[1])
        return _unless_none(
            lambda row: {key: value(inner) for key, inner in (row.items() if isinstance(row, dict) else row)}
        )
    return _builder(next(a for a in arguments if a is not type(None)))


def _unless_none(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda row: None if row is None else build(row)


def write_records(path: Path, records: Iterable[Any], kind: type) -> int:
    """Write records of `kind` to one Parquet file, whole or not at all, a row group at a time. Return their number."""
    schema, n = schema_of(kind), 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        rows: list[Any] = []
        n_characters = 0
        for record in records:
            rows.append(to_row(record))
            n_characters += _n_characters(rows[-1])
            if len(rows) == _ROWS_PER_GROUP or n_characters >= _CHARACTERS_PER_GROUP:
                writer.write_table(_table(rows, schema))
                n, rows, n_characters = n + len(rows), [], 0
        writer.write_table(_table(rows, schema))
        n += len(rows)
    return n


def _n_characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_n_characters, value.values()))
    return sum(map(_n_characters, value)) if isinstance(value, list) else 0


def _table(rows: list[Any], schema: pa.Schema) -> pa.Table:
    columns = []
    for item in schema:
        values = [row[item.name] for row in rows]
        if pa.types.is_map(item.type):
            values = [sorted(value.items()) for value in values]  # one order, so that equal records are equal bytes
        columns.append(pa.array(_with_sorted_maps(values, item.type), item.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _with_sorted_maps(values: list[Any], kind: pa.DataType) -> list[Any]:
    """Turn dictionaries inside structs (a document inside a dropped document) into sorted pairs."""
    if not pa.types.is_struct(kind) or not _has_map(kind):
        return values
    fields = [kind.field(i) for i in range(kind.num_fields)]

    def convert(value: Any, inner: pa.DataType) -> Any:
        if value is None:
            return None
        if pa.types.is_map(inner):
            return sorted(value.items())
        if pa.types.is_struct(inner):
            return {
                inner.field(i).name: convert(value[inner.field(i).name], inner.field(i).type)
                for i in range(inner.num_fields)
            }
        return value

    return [None if v is None else {f.name: convert(v[f.name], f.type) for f in fields} for v in values]


def _has_map(kind: pa.DataType) -> bool:
    return any(
        pa.types.is_map(f.type) or (pa.types.is_struct(f.type) and _has_map(f.type))
        for f in (kind.field(i) for i in range(kind.num_fields))
    )


def read_records(path: Path, kind: type[T], columns: list[str] | None = None) -> Iterator[T]:
    """Yield the records of one Parquet file, a row group at a time.

    With `columns`, yields plain dictionaries of those columns instead. Raises UserError on a broken file.
    """
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):  # a batch over several groups would hold them all
                for batch in file.iter_batches(_ROWS_PER_GROUP, row_groups=[group], columns=columns):
                    for row in batch.to_pylist():
                        yield row if columns else from_row(kind, row)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path} is not a readable Parquet file ({str(error).splitlines()[0]}); make it again"
        ) from None


def shards(folder: Path, name: str) -> list[Path]:
    """Return the files `name-*.parquet` of an artifact, in order."""
    return sorted(folder.glob(f"{name}-*.parquet"))


def read_shards(folder: Path, name: str, kind: type[T]) -> Iterator[T]:
    """Yield the records of all files `name-*.parquet` of an artifact, in order."""
    for path in shards(folder, name):
        yield from read_records(path, kind)
