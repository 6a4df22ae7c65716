from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.core.errors import UserError
from codeflow.core.records import read_records, write_records
from codeflow.core.types import Change, Commit, Document, DroppedDocument, Origin, Triplet

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_origin = st.builds(Origin, _text, _text, _text, _text, _text, _text)
_tags = st.dictionaries(_text, st.floats(allow_nan=False), max_size=3)
_document = st.builds(Document, _text, _text, _text, _origin, _tags)
_change = st.builds(Change, _text, _text, _text, st.none() | _text, st.none() | _text, st.booleans())
_records = {
    DroppedDocument: st.builds(DroppedDocument, _document, _text, _text, _text),
    Commit: st.builds(
        Commit, _text, _text, _text, _text, _text, st.lists(_change, max_size=3).map(tuple), st.floats(0, 1)
    ),
    Triplet: st.builds(
        Triplet,
        _text,
        st.dictionaries(_text, _text, max_size=2),
        _text,
        st.dictionaries(_text, _text, max_size=2),
        st.lists(_text, max_size=2).map(tuple),
        _origin,
        st.floats(0, 1),
        _tags,
    ),
}


@pytest.mark.parametrize("kind", list(_records))
def test_records_survive_parquet(kind: type, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("records") / "x-00000.parquet"

    @given(st.lists(_records[kind], max_size=4))
    def check(records: list[object]) -> None:
        assert write_records(path, records, kind) == len(records)
        assert list(read_records(path, kind)) == records
        first = path.read_bytes()
        write_records(path, list(read_records(path, kind)), kind)
        assert path.read_bytes() == first

    check()


def test_order_of_tags_does_not_change_the_bytes(tmp_path: Path) -> None:
    origin = Origin("a", "b", "c", "d", "e", "f")
    for name, tags in (("one", {"a": 1.0, "b": 2.0}), ("two", {"b": 2.0, "a": 1.0})):
        write_records(tmp_path / name, [Document("i", "t", "Python", origin, tags)], Document)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("cut", [0, 3, -20])
def test_truncated_file_is_a_user_error_that_names_it(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "documents-00000.parquet"
    write_records(path, [Document("i", "t", "Python", Origin("a", "b", "c", "d", "e", "f"))], Document)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"documents-00000\.parquet"):
        list(read_records(path, Document))
