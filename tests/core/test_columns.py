"""Columns of records: the arrays, and the bytes on disk, that their plain rows give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.columns import array_of, arrow_type, counter, hints_of
from codeflow.core.records import read_records, schema_of, to_row, write_records
from codeflow.core.types import Change, Commit, Document, DroppedDocument, Rollout, Sample, Score, Triplet

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@dataclass(frozen=True, slots=True)
class Point:
    name: str
    weights: tuple[float, ...]
    tags: dict[str, int]


@dataclass(frozen=True, slots=True)
class Shape:
    n: int
    flag: bool
    note: str | None
    numbers: tuple[int, ...] | None
    centre: Point | None
    points: tuple[Point, ...]
    names: tuple[str | None, ...]
    rows: tuple[tuple[int, ...], ...]


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    plain = {str: TEXTS, int: st.integers(-9, 9), float: st.floats(allow_nan=False), bool: st.booleans()}
    if hint in plain:
        return plain[hint]
    if hasattr(hint, "__dataclass_fields__"):
        return st.builds(hint, **{name: values_of(inner) for name, inner in hints_of(hint).items()})
    arguments = hint.__args__
    if getattr(hint, "__origin__", None) is tuple:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if getattr(hint, "__origin__", None) is dict:
        return st.dictionaries(TEXTS, values_of(arguments[1]), max_size=3)
    return st.none() | values_of(next(a for a in arguments if a is not type(None)))


def sorted_maps(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_map(kind):
        return sorted(value.items())
    if pa.types.is_struct(kind):
        return {field.name: sorted_maps(value[field.name], field.type) for field in kind}
    return [sorted_maps(item, kind.value_type) for item in value] if pa.types.is_list(kind) else value


def characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(characters, value.values()))
    return sum(map(characters, value)) if isinstance(value, list) else 0


@pytest.mark.parametrize("kind", [Shape, Change, Commit, Document, DroppedDocument, Rollout, Sample, Score, Triplet])
def test_columns_and_files_are_those_of_plain_rows(kind: type, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("columns")

    @settings(max_examples=20, deadline=None)
    @given(st.lists(values_of(kind), max_size=3))
    def check(records: list[Any]) -> None:
        rows = [to_row(record) for record in records]
        columns = []
        for name, hint in hints_of(kind).items():
            expected = pa.array([sorted_maps(row[name], arrow_type(hint)) for row in rows], arrow_type(hint))
            found = array_of(hint, [getattr(record, name) for record in records])
            found.validate(full=True)
            assert found.equals(expected)
            columns.append(expected)
        count = counter(kind)
        assert [count(record) if count else 0 for record in records] == [characters(row) for row in rows]
        write_records(folder / "found", records, kind)
        with pq.ParquetWriter(folder / "expected", schema_of(kind), compression="zstd") as writer:
            writer.write_table(pa.Table.from_arrays(columns, schema=schema_of(kind)))
        assert (folder / "found").read_bytes() == (folder / "expected").read_bytes()
        assert list(read_records(folder / "found", kind)) == records

    check()


def test_a_type_without_a_column_is_named() -> None:
    with pytest.raises(TypeError, match="no Parquet column for <class 'bytes'>"):
        arrow_type(bytes)


def test_types_without_text_are_not_counted() -> None:
    assert counter(tuple[int, ...]) is None
    assert counter(dict[str, float]) is None
    assert counter(str | None)(None) == 0  # type: ignore[misc]
