from __future__ import annotations

import pytest

from codeflow.eval.sql_clauses import Query, Schema, SqlError, read_query, tokenize
from codeflow.eval.sql_match import exact_set_match, foreign_keys, hardness

SCHEMA = Schema({"pet": ["id", "owner", "name", "age"], "person": ["id", "name"]})
KEYS = {"__pet.owner__": "__person.id__", "__person.id__": "__person.id__"}


def _match(predicted: str, gold: str) -> bool:
    return exact_set_match(read_query(predicted, SCHEMA), read_query(gold, SCHEMA), SCHEMA, KEYS)


def test_tokens() -> None:
    assert tokenize("SELECT count(*) FROM t WHERE a ! = 'It is'") == [
        *("select", "count", "(", "*", ")", "from", "t", "where", "a", "!=", '"It is"')
    ]
    with pytest.raises(SqlError, match="quotation"):
        tokenize("select 'a")


@pytest.mark.parametrize(
    ("predicted", "gold", "same"),
    [
        ("select name, age from pet", "SELECT age, name FROM pet", True),
        ("select name from pet where age > 3", "select name from pet where age > 99", True),  # values do not count
        ("select name from pet where age >= 3", "select name from pet where age > 3", False),
        ("select distinct name from pet", "select name from pet", True),
        ("select name from pet where age = 1 or id = 2", "select name from pet where age = 1 and id = 2", False),
        ("select name from pet order by age", "select name from pet order by age desc", False),
        ("select name from pet order by age limit 1", "select name from pet order by age limit 5", True),
        ("select name from pet limit 1", "select name from pet", False),
        ("select name from pet", "select name from person", False),
        (
            "select t2.owner from person as t1 join pet as t2 on t1.id = t2.owner",
            "select t1.id from person as t1 join pet as t2 on t1.id = t2.owner",
            True,  # one column by its foreign key
        ),
        (
            "select name from pet where id in (select id from person)",
            "select name from pet where id in (select name from person)",
            False,
        ),
        ("select name from pet union select name from person", "select name from pet", False),
        (
            "select owner from pet group by owner having count(*) > 2",
            "select owner from pet group by owner having count(*) > 3",
            True,
        ),
    ],
)
def test_exact_set_match(predicted: str, gold: str, same: bool) -> None:
    assert _match(predicted, gold) == same


@pytest.mark.parametrize(
    "text",
    [
        "select name from pet left join person on pet.owner = person.id",
        "select name from pet, person",
        "select unknown from pet",
        "select name pet",
        "select name from pet limit",
        "",
    ],
)
def test_what_cannot_be_read(text: str) -> None:
    with pytest.raises(SqlError):
        read_query(text, SCHEMA)
    assert not exact_set_match(Query(), read_query("select name from pet", SCHEMA), SCHEMA, KEYS)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("select name from pet where age = 1", "easy"),
        ("select name, age from pet where age = 1", "medium"),
        ("select name from pet where id in (select id from person)", "hard"),
        ("select name from pet where age = 1 union select name from pet where age = 2 order by age limit 1", "hard"),
        ("select max(age), name from pet where id in (select id from person) group by name order by age", "extra"),
    ],
)
def test_hardness(text: str, level: str) -> None:
    assert hardness(read_query(text, SCHEMA)) == level


def test_foreign_keys_join_into_groups() -> None:
    entry = {
        "table_names_original": ["A", "B"],
        "column_names_original": [[-1, "*"], [0, "Id"], [1, "Id"], [1, "A_id"]],
        "foreign_keys": [[3, 1]],
    }
    assert foreign_keys(entry) == {"__a.id__": "__a.id__", "__b.a_id__": "__a.id__"}
