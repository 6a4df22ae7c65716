from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from codeflow.eval.sql_run import Query, run_queries, same_rows, same_set


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "d.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("create table t (a integer, b text, c blob)")
        connection.executemany("insert into t values (?, ?, ?)", [(1, "x", b"\x00"), (2, None, b""), (3, "y", None)])
        connection.execute("insert into t values (4, cast(x'ff41' as text), null)")
    connection.close()
    return path


def test_answers_and_what_goes_wrong(database: Path, sandbox: None) -> None:
    before = database.read_bytes()
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n"
    huge = (
        "with recursive n(i) as (select 1 union all select i + 1 from n limit 1000) select hex(zeroblob(99999)) from n"
    )
    texts = [
        "select a, b, c from t where a < 4",
        "select zzz from t",
        "delete from t",
        "select 1; select 2",
        endless,
        huge,
    ]
    queries = [Query(database, text) for text in texts]
    bad = [Query(database, "select b from t where a = 4", ignore) for ignore in (True, False)]
    answers = run_queries([*queries, *bad], 1.0, 2)
    rows, unknown, write, two, slow, large = (answers[query] for query in queries)
    assert rows.rows == [(1, "x", b"\x00"), (2, None, b""), (3, "y", None)]
    assert "no such column" in unknown.detail
    assert "readonly" in write.detail
    assert [two.problem, slow.problem, large.problem] == ["error", "time", "size"]
    assert answers[bad[0]].rows == [("A",)]
    assert answers[bad[1]].problem == "error"
    assert database.read_bytes() == before


@pytest.mark.parametrize(
    ("gold", "predicted", "ordered", "same"),
    [
        ([], [], False, True),
        ([(1, 2)], [(2, 1)], False, True),  # columns change places
        ([(1, 2), (3, 4)], [(4, 3), (2, 1)], False, True),
        ([(1, 2), (3, 4)], [(4, 3), (2, 1)], True, False),
        ([(1, 2), (3, 4)], [(2, 1), (4, 3)], True, True),
        ([(1, 2), (3, 4)], [(1, 2), (4, 3)], False, False),  # not the same change in every row
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)], False, False),  # bags, not sets
        ([(1,)], [(1, 1)], False, False),
        ([(1.0, None)], [(None, 1)], False, True),
    ],
)
def test_rows_under_changes_of_columns(gold: list, predicted: list, ordered: bool, same: bool) -> None:
    assert same_rows(gold, predicted, ordered) == same


def test_sets_of_rows() -> None:
    assert same_set([(1,), (1,)], [(1,)])
    assert not same_set([(1, 2)], [(2, 1)])
