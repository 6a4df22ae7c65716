"""Spider's exact set match and hardness (Yu et al. 2018; taoyds/test-suite-sql-eval, Apache-2.0), on read queries.

Clauses are compared as sets. Values and `distinct` do not count, columns joined by foreign keys are one. Quirks of the
official rule that are kept: inside nested conditions `distinct` and foreign keys count as written, in queries after
`from` values count too, and `limit`'s number never does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from codeflow.eval.sql_clauses import Column, Condition, Expression, Query, Schema

Conditions = Sequence[Condition | str]


def foreign_keys(entry: Mapping[str, Any]) -> dict[str, str]:
    """Return, for a database of `tables.json`, which column id stands for which: the first of those joined by keys."""
    tables = entry["table_names_original"]
    names = [
        f"__{tables[table].lower()}.{column.lower()}__" if table >= 0 else "__all__"
        for table, column in entry["column_names_original"]
    ]
    groups: list[set[int]] = []
    for pair in entry["foreign_keys"]:
        group = next((group for group in groups if group & set(pair)), None)
        if group is None:
            group = set()
            groups.append(group)
        group |= set(pair)
    return {names[column]: names[min(group)] for group in groups for column in sorted(group)}


def exact_set_match(predicted: Query, gold: Query, schema: Schema, keys: Mapping[str, str]) -> bool:
    """Say whether two queries have the same clauses by the official rule."""
    return _same(_comparable(predicted, schema, keys), _comparable(gold, schema, keys))


def _comparable(query: Query, schema: Schema, keys: Mapping[str, str]) -> Query:
    """Return the query without values, and with columns joined by foreign keys made one."""
    tables = [table[:-2] for table in query.tables if isinstance(table, str)]
    valid = {name for name in schema.ids.values() if "." in name and name[: name.index(".")] in tables}
    return _with_keys(_without_values(query), {name: key for name, key in keys.items() if name in valid})


def _without_values(query: Query) -> Query:
    def value(one: Any) -> Any:
        return _without_values(one) if isinstance(one, Query) else None

    def bare(conditions: Conditions) -> tuple[Condition | str, ...]:
        return tuple(
            one if isinstance(one, str) else one._replace(value=value(one.value), second=value(one.second))
            for one in conditions
        )

    sets = {name: _without_values(inner) for name, inner in (query.sets or {}).items()}
    return replace(
        query, joined_on=bare(query.joined_on), where=bare(query.where), having=bare(query.having), sets=sets
    )


def _with_keys(query: Query, keys: Mapping[str, str]) -> Query:
    def column(one: Column) -> Column:
        return Column(one.aggregate, keys.get(one.id, one.id), None)

    def expression(one: Expression) -> Expression:
        return Expression(one.operator, column(one.left), column(one.right) if one.right else None)

    def conditions(some: Conditions) -> tuple[Condition | str, ...]:
        return tuple(
            one if isinstance(one, str) else one._replace(expression=expression(one.expression)) for one in some
        )

    order = query.order_by
    return replace(
        query,
        distinct=None,
        select=tuple((aggregate, expression(one)) for aggregate, one in query.select),
        joined_on=conditions(query.joined_on),
        where=conditions(query.where),
        having=conditions(query.having),
        group_by=tuple(column(one) for one in query.group_by),
        order_by=(order[0], tuple(expression(one) for one in order[1])) if order else None,
        sets={name: _with_keys(inner, keys) for name, inner in (query.sets or {}).items()},
    )


def _same(predicted: Query, gold: Query) -> bool:
    return (
        _same_bag(predicted.select, gold.select)
        and _same_bag(predicted.where[::2], gold.where[::2])
        and set(predicted.where[1::2]) == set(gold.where[1::2])
        and Counter(map(_bare_name, predicted.group_by)) == Counter(map(_bare_name, gold.group_by))
        and _same_groups(predicted, gold)
        and predicted.order_by == gold.order_by
        and (gold.order_by is None or predicted.limit == gold.limit)
        and _same_sets(predicted, gold)
        and _keywords(predicted) == _keywords(gold)
        and (not gold.tables or _same_bag(predicted.tables, gold.tables))
    )


def _same_bag(left: Sequence[Any], right: Sequence[Any]) -> bool:
    rest = list(right)
    for item in left:
        if item not in rest:
            return False
        rest.remove(item)
    return not rest


def _bare_name(column: Column) -> str:
    return column.id.split(".")[1] if "." in column.id else column.id


def _same_groups(predicted: Query, gold: Query) -> bool:
    if not predicted.group_by and not gold.group_by:
        return True  # a having without groups does not count
    ids = ([column.id for column in query.group_by] for query in (predicted, gold))
    return next(ids) == next(ids) and predicted.having == gold.having


def _same_sets(predicted: Query, gold: Query) -> bool:
    left, right = predicted.sets or {}, gold.sets or {}
    return left.keys() == right.keys() and all(_same(left[name], right[name]) for name in left)


def _all_conditions(query: Query) -> list[Condition]:
    found = (*query.joined_on[::2], *query.where[::2], *query.having[::2])
    return [one for one in found if isinstance(one, Condition)]


def _connectors(query: Query) -> list[Condition | str]:
    return [*query.joined_on[1::2], *query.where[1::2], *query.having[1::2]]


def _keywords(query: Query) -> set[str]:
    found = set(query.sets or {})
    clauses = {"where": query.where, "group": query.group_by, "having": query.having, "limit": query.limit}
    found |= {name for name, clause in clauses.items() if clause}
    if query.order_by:
        found |= {"order", query.order_by[0]}
    if "or" in _connectors(query):
        found.add("or")
    for condition in _all_conditions(query):
        found |= {"not"} if condition.negated else set()
        found |= {condition.operator} & {"in", "like"}
    return found


def hardness(query: Query) -> str:
    """Return the official level of a gold query: easy, medium, hard or extra."""
    parts = sum(map(bool, (query.where, query.group_by, query.order_by, query.limit)))
    parts += max(len(query.tables) - 1, 0) + _connectors(query).count("or")
    parts += sum(condition.operator == "like" for condition in _all_conditions(query))
    nested = sum(isinstance(value, Query) for one in _all_conditions(query) for value in (one.value, one.second))
    nested += len(query.sets or {})
    others = (sum(_aggregates(query)) > 1) + (len(query.select) > 1) + (len(query.where) > 1)
    others += len(query.group_by) > 1
    if parts <= 1 and others == 0 and nested == 0:
        return "easy"
    if nested == 0 and ((others <= 2 and parts <= 1) or (parts <= 2 and others < 2)):
        return "medium"
    if nested == 0 and ((others > 2 and parts <= 2) or (2 < parts <= 3 and others <= 2)):
        return "hard"
    return "hard" if parts <= 1 and others == 0 and nested <= 1 else "extra"


def _aggregates(query: Query) -> Iterator[bool]:
    """Yield what officially counts as an aggregate: also a negated condition, and every and / or after `having`."""
    yield from (aggregate != "none" for aggregate, _ in query.select)
    yield from (one.negated for one in query.where[::2] if isinstance(one, Condition))
    yield from (column.aggregate != "none" for column in query.group_by)
    for expression in query.order_by[1] if query.order_by else ():
        yield expression.left.aggregate != "none"
        yield expression.right is not None and expression.right.aggregate != "none"
    yield from (one.negated if isinstance(one, Condition) else True for one in query.having)
