"""Reading an SQL query into clauses, as Spider's exact set match needs them.

Covers the subset of SQL that Spider (Yu et al. 2018) covers: select, from with joins, where, group by, having, order
by, limit, one of intersect, union and except, nested queries. What the official reader cannot read, this one cannot
either, and a prediction that cannot be read matches nothing: left joins, comma joins, computed columns, `case`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

AGGREGATES = ("none", "max", "min", "count", "sum", "avg")
_CLAUSES = ("select", "from", "where", "group", "order", "limit", "intersect", "union", "except")
_JOINS = ("join", "on", "as")
_COMPARISONS = ("not", "between", "=", ">", "<", ">=", "<=", "!=", "in", "like", "is", "exists")
_OPERATORS = ("none", "-", "+", "*", "/")
_SETS = ("intersect", "union", "except")
_CLOSING = (")", ";")
_SPLITS = (  # how the official tokenizer, one for English, cuts words
    (r"([:,])(\D)", r" \1 \2"),
    (r"([:,])$", r" \1 "),
    (r"\.{2,}|[;@#$%&?!*`]|--|[\]\[(){}<>]", r" \g<0> "),
)


class SqlError(ValueError):
    """The query is not in the subset that can be read."""


class Column(NamedTuple):
    """A column, perhaps aggregated; `distinct` is None where it does not count."""

    aggregate: str
    id: str
    distinct: bool | None


class Expression(NamedTuple):
    """One column, or two with an operator between."""

    operator: str
    left: Column
    right: Column | None


class Condition(NamedTuple):
    """A comparison. Values are numbers, texts, columns, queries, or None where they do not count."""

    negated: bool
    operator: str
    expression: Expression
    value: Any
    second: Any  # of `between`


@dataclass(frozen=True)
class Query:
    """The clauses of a query. Conditions alternate with "and" / "or"."""

    select: tuple[tuple[str, Expression], ...] = ()
    distinct: bool | None = False
    tables: tuple[str | Query, ...] = ()
    joined_on: tuple[Condition | str, ...] = ()
    where: tuple[Condition | str, ...] = ()
    group_by: tuple[Column, ...] = ()
    having: tuple[Condition | str, ...] = ()
    order_by: tuple[str, tuple[Expression, ...]] | None = None
    limit: bool = False
    sets: Mapping[str, Query] | None = None  # at most one of intersect, union, except


@dataclass(frozen=True)
class Schema:
    """Tables with their columns, all in lower case."""

    tables: Mapping[str, Sequence[str]]

    @functools.cached_property
    def ids(self) -> dict[str, str]:
        """The id of each `table.column`, each table and `*`."""
        columns = [f"{table}.{name}" for table, names in self.tables.items() for name in names]
        return {name: f"__{name}__" for name in (*columns, *self.tables)} | {"*": "__all__"}


def read_query(text: str, schema: Schema) -> Query:
    """Return the clauses of `text`. Raises SqlError when it cannot be read."""
    try:
        tokens = tokenize(text)
        aliases = {tokens[i + 1]: tokens[i - 1] for i, token in enumerate(tokens) if token == "as"}
        if any(table in aliases for table in schema.tables):
            raise SqlError("an alias has the name of a table")
        return _Reader(tokens, schema, aliases | {table: table for table in schema.tables}).query(0)[1]
    except (IndexError, KeyError, ValueError, RecursionError) as error:
        raise SqlError(str(error)) from None


def tokenize(text: str) -> list[str]:
    """Return the tokens in lower case; a quoted text is one token in double quotes, its case kept."""
    text = text.replace("'", '"')
    parts = text.split('"')
    if len(parts) % 2 == 0:
        raise SqlError("a quotation is not closed")
    quoted = {f"__val_{number}__": f'"{part}"' for number, part in enumerate(parts) if number % 2}
    marked = "".join(f"__val_{number}__" if number % 2 else part for number, part in enumerate(parts))
    for pattern, cut in _SPLITS:
        marked = re.sub(pattern, cut, marked)
    tokens = [quoted.get(token, token) for token in marked.lower().split()]
    joined: list[str] = []
    for token in tokens:
        if token == "=" and joined and joined[-1] in ("!", ">", "<"):
            joined[-1] += "="
        else:
            joined.append(token)
    return joined


class _Reader:
    """Recursive descent. Each method takes the place to begin at and returns the place after what it read."""

    def __init__(self, tokens: list[str], schema: Schema, aliases: Mapping[str, str]) -> None:
        self.tokens, self.schema, self.aliases = tokens, schema, aliases

    def _at(self, place: int, *choices: str) -> bool:
        return place < len(self.tokens) and self.tokens[place] in choices

    def _expect(self, place: int, token: str) -> int:
        if not self._at(place, token):
            raise SqlError(f"'{token}' expected at token {place}")
        return place + 1

    def query(self, place: int) -> tuple[int, Query]:
        block = self._at(place, "(")
        begin = place + block
        place, tables, joined_on, names = self._from(begin)
        distinct, select = self._select(begin, names)
        where: tuple[Condition | str, ...] = ()
        having: tuple[Condition | str, ...] = ()
        if self._at(place, "where"):
            place, where = self.conditions(place + 1, names)
        place, group_by = self._group_by(place, names)
        if self._at(place, "having"):
            place, having = self.conditions(place + 1, names)
        place, order_by = self._order_by(place, names)
        limit = self._at(place, "limit")
        if limit and place + 1 == len(self.tokens):
            raise SqlError("limit without a number")
        place = self._semicolons(place + 2 * limit)
        if block:
            place = self._expect(place, ")")
        place = self._semicolons(place)
        sets: dict[str, Query] = {}
        if self._at(place, *_SETS):
            operator = self.tokens[place]
            place, sets[operator] = self.query(place + 1)
        return place, Query(select, distinct, tables, joined_on, where, group_by, having, order_by, limit, sets)

    def _semicolons(self, place: int) -> int:
        while self._at(place, ";"):
            place += 1
        return place

    def _from(self, place: int) -> tuple[int, tuple[str | Query, ...], tuple[Condition | str, ...], list[str]]:
        place = self.tokens.index("from", place) + 1
        tables: list[str | Query] = []
        names: list[str] = []
        conditions: list[Condition | str] = []
        while place < len(self.tokens):
            block = self._at(place, "(")
            place += block
            if self._at(place, "select"):
                place, inner = self.query(place)
                tables.append(inner)
            else:
                place += self._at(place, "join")
                name = self.aliases[self.tokens[place]]
                tables.append(self.schema.ids[name])
                names.append(name)
                place += 3 if self._at(place + 1, "as") else 1
            if self._at(place, "on"):
                place, found = self.conditions(place + 1, names)
                conditions += [*(["and"] if conditions else []), *found]
            if block:
                place = self._expect(place, ")")
            if self._at(place, *_CLAUSES, *_CLOSING):
                break
        return place, tuple(tables), tuple(conditions), names

    def _select(self, place: int, names: Sequence[str]) -> tuple[bool, tuple[tuple[str, Expression], ...]]:
        place = self._expect(place, "select")
        distinct = self._at(place, "distinct")
        place += distinct
        found: list[tuple[str, Expression]] = []
        while place < len(self.tokens) and not self._at(place, *_CLAUSES):
            aggregate = self.tokens[place] if self._at(place, *AGGREGATES) else "none"
            place, expression = self.expression(place + self._at(place, *AGGREGATES), names)
            found.append((aggregate, expression))
            place += self._at(place, ",")
        return distinct, tuple(found)

    def _group_by(self, place: int, names: Sequence[str]) -> tuple[int, tuple[Column, ...]]:
        found: list[Column] = []
        if self._at(place, "group"):
            place = self._expect(place + 1, "by")
            while place < len(self.tokens) and not self._at(place, *_CLAUSES, *_CLOSING):
                place, column = self.column(place, names)
                found.append(column)
                if not self._at(place, ","):
                    break
                place += 1
        return place, tuple(found)

    def _order_by(self, place: int, names: Sequence[str]) -> tuple[int, tuple[str, tuple[Expression, ...]] | None]:
        if not self._at(place, "order"):
            return place, None
        place = self._expect(place + 1, "by")
        found: list[Expression] = []
        direction = "asc"
        while place < len(self.tokens) and not self._at(place, *_CLAUSES, *_CLOSING):
            place, expression = self.expression(place, names)
            found.append(expression)
            if self._at(place, "asc", "desc"):
                direction = self.tokens[place]
                place += 1
            if not self._at(place, ","):
                break
            place += 1
        return place, (direction, tuple(found))

    def conditions(self, place: int, names: Sequence[str]) -> tuple[int, tuple[Condition | str, ...]]:
        """Read comparisons joined by and / or, up to the next clause."""
        found: list[Condition | str] = []
        while place < len(self.tokens):
            place, expression = self.expression(place, names)
            negated = self.tokens[place] == "not"
            place += negated
            operator = self.tokens[place]
            if operator not in _COMPARISONS:
                raise SqlError(f"'{operator}' compares nothing")
            place, value = self.value(place + 1, names)
            second = None
            if operator == "between":
                place, second = self.value(self._expect(place, "and"), names)
            found.append(Condition(negated, operator, expression, value, second))
            if self._at(place, *_CLAUSES, *_CLOSING, *_JOINS):
                break
            if self._at(place, "and", "or"):
                found.append(self.tokens[place])
                place += 1
        return place, tuple(found)

    def value(self, place: int, names: Sequence[str]) -> tuple[int, Any]:
        """Read a query, a text, a number or a column."""
        begin, block = place, self._at(place, "(")
        place += block
        token = self.tokens[place]
        if token == "select":
            place, value = self.query(place)
        elif '"' in token:
            place, value = place + 1, token
        else:
            try:
                place, value = place + 1, float(token)
            except ValueError:
                end = place
                while end < len(self.tokens) and not self._at(end, ",", ")", "and", *_CLAUSES, *_JOINS):
                    end += 1
                within = _Reader(self.tokens[begin:end], self.schema, self.aliases)
                place, value = end, within.column(0, names)[1]
        return (self._expect(place, ")") if block else place), value

    def expression(self, place: int, names: Sequence[str]) -> tuple[int, Expression]:
        """Read one column, or two with an operator between."""
        block = self.tokens[place] == "("
        place, left = self.column(place + block, names)
        operator, right = "none", None
        if self._at(place, *_OPERATORS):
            operator = self.tokens[place]
            place, right = self.column(place + 1, names)
        return (self._expect(place, ")") if block else place), Expression(operator, left, right)

    def column(self, place: int, names: Sequence[str]) -> tuple[int, Column]:
        """Read a column, perhaps aggregated or distinct."""
        block = self.tokens[place] == "("
        place += block
        if self.tokens[place] in AGGREGATES:
            aggregate = self.tokens[place]
            place = self._expect(place + 1, "(")
            distinct = self.tokens[place] == "distinct"
            place += distinct
            column = Column(aggregate, self._id(self.tokens[place], names), distinct)
            return self._expect(place + 1, ")"), column
        distinct = self.tokens[place] == "distinct"
        place += distinct
        column = Column("none", self._id(self.tokens[place], names), distinct)
        place += 1
        return (self._expect(place, ")") if block else place), column

    def _id(self, token: str, names: Sequence[str]) -> str:
        if token == "*":
            return self.schema.ids[token]
        if "." in token:
            alias, name = token.split(".")
            return self.schema.ids[f"{self.aliases[alias]}.{name}"]
        for table in names:
            if token in self.schema.tables[table]:
                return self.schema.ids[f"{table}.{token}"]
        raise SqlError(f"no column '{token}' in the tables of the query")
