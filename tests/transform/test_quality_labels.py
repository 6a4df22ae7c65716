from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.core.errors import UserError
from codeflow.core.records import write_records
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.transform.quality_labels import LabelledDocument, folds_by_repository, read_labels, side_of


def labelled(text: str, source: str = "history", domain: str = "code", **targets: float) -> LabelledDocument:
    origin = Origin("git", "r", "", "a.py", "", "")
    return LabelledDocument(Document(sha256_text(text), text, "Python", origin), source, domain, targets)


@given(st.lists(st.text(max_size=5), min_size=3, max_size=40, unique=True), st.integers(3, 6), st.integers(0, 5))
def test_no_repository_is_on_two_sides_and_no_side_is_empty(names: list[str], n_folds: int, seed: int) -> None:
    if len(names) < n_folds:
        with pytest.raises(UserError, match="lower n_folds"):
            folds_by_repository(names, n_folds, seed)
        return
    folds = folds_by_repository([*names, *names], n_folds, seed)
    assert folds == folds_by_repository(reversed(names), n_folds, seed)
    assert set(folds) == set(names)
    sizes = [list(folds.values()).count(fold) for fold in range(n_folds)]
    assert max(sizes) - min(sizes) <= 1
    for tested in range(n_folds):
        sides = {name: side_of(fold, tested, n_folds) for name, fold in folds.items()}
        assert set(sides.values()) == {"train", "validation", "test"}
    times = [sum(side_of(folds[name], tested, n_folds) == "test" for tested in range(n_folds)) for name in names]
    assert set(times) == {1}  # each is tested once


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
