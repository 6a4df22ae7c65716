from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.core.errors import UserError
from codeflow.core.records import write_records
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.transform.quality_labels import LabelledDocument, read_labels, split_by_repository


def labelled(text: str, source: str = "history", domain: str = "code", **targets: float) -> LabelledDocument:
    origin = Origin("git", "r", "", "a.py", "", "")
    return LabelledDocument(Document(sha256_text(text), text, "Python", origin), source, domain, targets)


@given(
    st.lists(st.text(max_size=5), min_size=3, max_size=40, unique=True),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 5),
)
def test_every_repository_is_on_one_side_and_no_side_is_empty(names, validation: float, test: float, seed: int) -> None:
    sides = split_by_repository([*names, *names], validation, test, seed)
    assert set(sides) == set(names)
    assert set(sides.values()) == {"train", "validation", "test"}
    assert sides == split_by_repository(reversed(names), validation, test, seed)


def test_shares_are_of_repositories_and_two_repositories_are_refused() -> None:
    sides = list(split_by_repository(map(str, range(20)), 0.1, 0.3, 0).values())
    assert (sides.count("test"), sides.count("validation")) == (6, 2)
    with pytest.raises(UserError, match="three or more"):
        split_by_repository(["a", "b"], 0.2, 0.2, 0)


def test_one_source_one_domain_one_target_each_text_once(tmp_path: Path) -> None:
    items = [labelled("a", survival=1.0), labelled("a", survival=0.0), labelled("b", other=1.0)]
    items.append(labelled("c", domain="general", survival=1.0))
    write_records(tmp_path / "one" / "labels-00000.parquet", items, LabelledDocument)
    found, source = read_labels([tmp_path / "one"], "code", "survival")
    assert [(item.document.text, item.targets["survival"]) for item in found] == [("a", 1.0)]
    assert source == "history"
    with pytest.raises(UserError, match="did you mean"):
        read_labels([tmp_path / "one"], "code", "survivl")
    with pytest.raises(UserError, match="the labels have code, general"):
        read_labels([tmp_path / "one"], "mathematics", "survival")


def test_labels_of_a_teacher_and_of_histories_are_never_mixed(tmp_path: Path) -> None:
    for name, source in (("one", "history"), ("two", "teacher m")):
        write_records(tmp_path / name / "labels-0.parquet", [labelled(name, source, survival=1.0)], LabelledDocument)
    with pytest.raises(UserError, match="several sources"):
        read_labels([tmp_path / "one", tmp_path / "two"], "code", "survival")
