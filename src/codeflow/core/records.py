"""Parquet (zstd) files of the types in core/types.py; the schema follows from the annotations.

str -> string, int -> int64, float -> double, tuple[X, ...] -> list, dict[str, X] -> map, X | None -> nullable,
a dataclass -> struct.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from codeflow.core.columns import PLAIN, array_of, arrow_type, counter, hints_of
from codeflow.core.errors import UserError
from codeflow.core.storage import atomic_path

T = TypeVar("T")
_ROWS_PER_GROUP = 1024  # bounds memory on both sides: a reader holds one row group,
_CHARACTERS_PER_GROUP = 64_000_000  # which is also bounded in text, as a commit may hold megabytes


@functools.cache
def schema_of(kind: type) -> pa.Schema:
    """Return the Arrow schema of a record type."""
    return pa.schema([pa.field(name, arrow_type(hint)) for name, hint in hints_of(kind).items()])


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
    if kind in PLAIN:
        return lambda row: row
    if dataclasses.is_dataclass(kind):
        fields = tuple((name, _builder(hint)) for name, hint in hints_of(typing.cast(type, kind)).items())
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
    schema, n, count = schema_of(kind), 0, counter(kind)
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        rows: list[Any] = []
        n_characters = 0
        for record in records:
            rows.append(record)
            n_characters += count(record) if count else 0
            if len(rows) == _ROWS_PER_GROUP or n_characters >= _CHARACTERS_PER_GROUP:
                writer.write_table(_table(rows, kind))
                n, rows, n_characters = n + len(rows), [], 0
        writer.write_table(_table(rows, kind))
        n += len(rows)
    return n


def _table(records: list[Any], kind: type) -> pa.Table:
    columns = [array_of(hint, [getattr(record, name) for record in records]) for name, hint in hints_of(kind).items()]
    return pa.Table.from_arrays(columns, schema=schema_of(kind))


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
