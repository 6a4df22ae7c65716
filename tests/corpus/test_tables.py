"""Rows of the published corpora become documents without code; damage is counted or named."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.errors import UserError
from codeflow.core.types import Document
from codeflow.corpus.tables import Columns, TableSettings, json_rows, parquet_rows, row_documents

CODE = "def f(x):\n    return x\n"
# The column names of the published data sets' cards; the values are made up.
STACK_V2 = {
    "blob_id": "b1", "path": "/src/f.py", "content_id": "c1", "detected_licenses": ["MIT", "Apache-2.0"],
    "license_type": "permissive", "repo_name": "owner/name", "snapshot_id": "s1", "revision_id": "r1",
    "branch_name": "refs/heads/main", "visit_date": datetime(2023, 1, 2, tzinfo=UTC),
    "revision_date": datetime(2022, 3, 4, tzinfo=UTC), "star_events_count": 7, "gha_license_id": None,
    "src_encoding": "UTF-8", "language": "Python", "is_vendor": False, "is_generated": True, "length_bytes": 22,
    "extension": "py", "content": CODE,
}  # fmt: skip
STACK_V1 = {
    "hexsha": "h", "ext": "py", "lang": "Python", "max_stars_repo_path": "f.py", "max_stars_repo_name": "o/n",
    "max_stars_repo_head_hexsha": "r0", "max_stars_repo_licenses": ["MIT"], "max_stars_count": 3, "content": CODE,
}  # fmt: skip
STARCODER = {"max_stars_repo_path": "f.py", "max_stars_repo_name": "o/n", "max_stars_count": None, "content": CODE}
C4 = {"text": "Words.", "timestamp": "2019-04-25T12:57:54Z", "url": "https://a.org/x.py"}
FINEWEB = {"text": "Words.", "id": "<urn:uuid:1>", "dump": "d", "url": "https://a.org/", "date": "2020-01-02T00:00:00Z",
           "file_path": "s3://x", "language": "en", "language_score": 0.9, "token_count": 1}  # fmt: skip
DOLMA = {"id": "1", "text": "Words.", "source": "s", "added": "2023-01-01", "metadata": {"url": "https://a.org/"}}


def documents(row: dict[str, Any], **settings: Any) -> tuple[list[Document], dict[str, int]]:
    dropped: Counter[str] = Counter()
    return list(row_documents(row, TableSettings.model_validate(settings), dropped)), dict(dropped)


@pytest.mark.parametrize(
    ("row", "language", "origin", "tags"),
    [
        (STACK_V2, "Python", ("owner/name", "r1", "/src/f.py", "Apache-2.0 AND MIT", "2022-03-04T00:00:00+00:00"),
         {"generated": 1.0, "stars": 7.0}),
        (STACK_V1, "Python", ("o/n", "r0", "f.py", "MIT", ""), {"stars": 3.0}),
        (STARCODER, "Python", ("o/n", "", "f.py", "", ""), {}),
        (C4, "Text", ("", "", "https://a.org/x.py", "", "2019-04-25T12:57:54Z"), {}),
        (FINEWEB, "Text", ("", "", "s3://x", "", "2020-01-02T00:00:00Z"), {}),
        (DOLMA, "Text", ("", "", "https://a.org/", "", "2023-01-01"), {}),
        ({"code": CODE, "language": "py"}, "Python", ("", "", "", "", ""), {}),
        ({"text": "# SPDX-License-Identifier: ISC\n", "path": "a.py"}, "Python", ("", "", "a.py", "ISC", ""), {}),
    ],
    ids=["stack_v2", "stack_v1", "starcoder", "c4", "fineweb", "dolma", "code", "spdx"],
)  # fmt: skip
def test_schemas(row: dict[str, Any], language: str, origin: tuple[str, ...], tags: dict[str, float]) -> None:
    (document,), dropped = documents(row)
    found = document.origin
    assert document.language == language
    assert (found.repository, found.revision, found.path, found.licence, found.fetched_at) == origin
    assert document.tags == tags
    assert not dropped


def test_a_row_of_a_repository_gives_its_files() -> None:
    shared = {name: STACK_V2[name] for name in ("repo_name", "revision_id", "star_events_count")}
    files = [{"path": "a.py", "content": CODE, "language": "Python", "detected_licenses": []}, {"path": "b.py"}, None]
    found, dropped = documents({**shared, "files": files})
    assert [(d.origin.repository, d.origin.path, d.tags) for d in found] == [("owner/name", "a.py", {"stars": 7.0})]
    assert dropped == {"row_without_text": 2}


def test_own_column_names() -> None:
    columns = {"text": ["answer.body"], "language": ["kind"], "tags": {"votes": "score"}}
    (document,), _ = documents({"answer": {"body": "x := 1"}, "kind": "golang", "votes": -2}, columns=columns)
    assert (document.text, document.language, document.tags) == ("x := 1", "Go", {"score": -2.0})


def test_rows_without_text() -> None:
    assert documents({"blob_id": "b"}) == ([], {"row_without_text": 1})
    assert documents({"text": 5}) == ([], {"row_without_text": 1})
    assert documents({"text": " \n"}) == ([], {"empty": 1})


def lines(data: bytes, name: str = "a.jsonl", max_bytes: int = 1000) -> tuple[list[Any], dict[str, int]]:
    dropped: Counter[str] = Counter()
    return list(json_rows(io.BytesIO(data), name, max_bytes, dropped)), {k: n for k, n in dropped.items() if n}


ROWS = b'{"text": "a"}\n\n{"text": "b"}\n{broken\n[1]\n' + b"[" * 990 + b"\n" + b"9" * 5000 + b'\n{"text": "c"}'


def test_json_lines_packed_and_damaged() -> None:
    expected = [{"text": "a"}, {"text": "b"}, {"text": "c"}]
    counts = {"json_line_damaged": 2, "json_line_no_object": 1, "json_line_too_long": 1}
    assert lines(ROWS) == (expected, counts)
    assert lines(gzip.compress(ROWS), "a.jsonl.gz") == (expected, counts)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(ROWS)
    assert lines(sink.getvalue().to_pybytes(), "a.json.zst") == (expected, counts)
    for name in ("a.json.gz", "a.json.zst"):
        with pytest.raises(UserError, match=r"cannot be unpacked .* leave it out"):
            lines(b"no packing at all", name)
    with pytest.raises(UserError, match="cannot be unpacked"):
        lines(gzip.compress(ROWS)[:-12], "a.jsonl.gz")
    with pytest.raises(UserError, match="cannot be unpacked"):  # its stream damaged, its frame whole
        lines(gzip.compress(ROWS)[:14] + b"\xff" * 8 + gzip.compress(ROWS)[22:], "a.jsonl.gz")


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=2)
    return sink.getvalue()


def test_parquet_rows_and_damage() -> None:
    rows = [{"text": f"row {n}", "n": n} for n in range(700)]
    assert list(parquet_rows(io.BytesIO(parquet(rows)), "a.parquet", Columns())) == rows
    for data in (b"", b"PAR1", b"no table" * 100, parquet(rows)[:-10], b"PAR1" + parquet(rows)[40:]):
        with pytest.raises(UserError, match=r"a.parquet is not a readable Parquet file"):
            list(parquet_rows(io.BytesIO(data), "a.parquet", Columns()))


def test_a_table_without_texts_names_its_columns() -> None:
    """The Stack v2 as it is published: rows name blobs whose texts lie elsewhere."""
    row = {name: value for name, value in STACK_V2.items() if name != "content"}
    with pytest.raises(
        UserError, match=r"a.parquet has no column for texts \(it has blob_id, path, .*, \.\.\.; looked"
    ):
        list(parquet_rows(io.BytesIO(parquet([row])), "a.parquet", Columns()))
    other = parquet([{"answer": {"body": "x"}}])
    assert len(list(parquet_rows(io.BytesIO(other), "a.parquet", Columns(text=("answer.body",))))) == 1
    assert len(list(parquet_rows(io.BytesIO(parquet([{"files": [], "repo_name": "o/n"}])), "a", Columns()))) == 1


_NAMES = st.sampled_from(["text", "content", "files", "path", "url", "language", "licenses", "metadata", "is_vendor"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=60)
@given(st.dictionaries(_NAMES, _VALUES, max_size=5))
def test_any_row_is_a_document_or_a_counted_drop(row: dict[str, Any]) -> None:
    found, dropped = documents(row)
    assert all(isinstance(document.text, str) and document.text.strip() for document in found)
    assert found or dropped or row.get("files") == []
