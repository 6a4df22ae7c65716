"""Rows come back from their part in the order they came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.transform import spill
from codeflow.transform.spill import Spill, distinct_rows

ROWS = st.lists(st.tuples(st.integers(0, 60), st.integers(-5, 5)), max_size=60)


@given(st.lists(ROWS, max_size=4), st.integers(1, 70), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_rows_come_back(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, int]]], width: int, chunk_rows: int
) -> None:
    kept = Spill(tmp_path_factory.mktemp("spill") / "rows", 2, width).create()
    for batch in batches:
        kept.add(np.array(batch, np.int64).reshape(-1, 2))
    every = [row for batch in batches for row in batch]
    assert kept.parts() == sorted({row[0] // width for row in every})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "_CHUNK_ROWS", chunk_rows)
        for part in range(61 // width + 1):
            expected = [list(row) for row in every if row[0] // width == part]
            assert kept.read(part).tolist() == expected
            assert all(len(chunk) <= chunk_rows for chunk in kept.chunks(part))


def test_create_forgets_an_interrupted_run(tmp_path: Path) -> None:
    Spill(tmp_path / "rows", 1, 10).create().add(np.array([[3]]))
    assert Spill(tmp_path / "rows", 1, 10).create().parts() == []


@given(ROWS)
def test_distinct_rows(rows: list[tuple[int, int]]) -> None:
    array = np.array(rows, np.int64).reshape(-1, 2)
    assert [tuple(row) for row in distinct_rows(array).tolist()] == sorted(set(rows))
