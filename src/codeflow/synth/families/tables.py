"""Families over dictionaries and over grids (lists of rows).

Oracles build results entry by entry and cell by cell.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from codeflow.synth.primitive import Family, end, step

_KEYS = ("a", "b", "c", "ab", "bc", "cat", "dog", "x", "y", "zoo")


def _dictionary(source: random.Random) -> dict[str, int]:
    return {key: source.randint(-5, 12) for key in source.sample(_KEYS, source.randint(2, 4))}


def _changed(change: Callable[[str, int, Any], tuple[str, int] | None]) -> Callable[[Any, Any], Any]:
    def oracle(d: dict[str, int], k: Any) -> dict[str, int]:
        found: dict[str, int] = {}
        for key in d:
            entry = change(key, d[key], k)
            if entry:
                found[entry[0]] = entry[1]
        return found

    return oracle


def _ordered(xs: Any) -> list[Any]:
    left, found = list(xs), []
    while left:
        found.append(left.pop(min(range(len(left)), key=left.__getitem__)))
    return found


DICTIONARIES = Family(
    "dictionaries",
    "d",
    "a dictionary from strings to integers",
    _dictionary,
    (
        step("above", "keep the entries with values greater than {k}|remove entries with values up to {k}",
             "{a: b for a, b in d.items() if b > {k}}",
             _changed(lambda a, b, k: None if b <= k else (a, b)), range(-1, 6)),
        step("even", "keep the entries with even values|remove entries with odd values",
             "{a: b for a, b in d.items() if b % 2 == 0}",
             _changed(lambda a, b, _: (a, b) if str(b)[-1] in "02468" else None)),
        step("add", "add {k} to each value|increase every value by {k}", "{a: b + {k} for a, b in d.items()}",
             _changed(lambda a, b, k: (a, sum([b, *[1] * k]))), range(1, 7)),
        step("multiply", "multiply each value by {k}|take {k} times every value", "{a: b * {k} for a, b in d.items()}",
             _changed(lambda a, b, k: (a, sum([b] * k))), (2, 3, 4)),
        step("negate", "negate each value|change the sign of every value", "{a: -b for a, b in d.items()}",
             _changed(lambda a, b, _: (a, 0 - b))),
        step("upper", "convert the keys to upper case|make every key upper case",
             "{a.upper(): b for a, b in d.items()}",
             _changed(lambda a, b, _: ("".join(chr(ord(c) - 32) if "a" <= c <= "z" else c for c in a), b))),
        step("repeat_keys", "double the text of each key|write every key twice", "{a + a: b for a, b in d.items()}",
             _changed(lambda a, b, _: ("".join([a, a]), b))),
        step("short_keys", "keep the entries with keys of one letter|remove entries with longer keys than one letter",
             "{a: b for a, b in d.items() if len(a) == 1}", _changed(lambda a, b, _: None if a[1:] else (a, b))),
        step("put", 'set the value of "k" to {k}|store {k} under "k"', '{**d, "k": {k}}',
             lambda d, k: dict([*((key, d[key]) for key in d), ("k", k)]), range(1, 10)),
        end("sum", "the sum of the values|all values added up", "sum(d.values())",
            lambda d, _: sum(d[key] for key in d)),
        end("keys", "the sorted list of keys|the keys in alphabetical order", "sorted(d)", lambda d, _: _ordered(d)),
        end("values", "the sorted list of values|the values in ascending order", "sorted(d.values())",
            lambda d, _: _ordered(d[key] for key in d)),
        end("largest", "the largest value, or 0 if there is none|the maximum value (0 if empty)",
            "max(d.values(), default=0)", lambda d, _: [0, *_ordered(d[key] for key in d)].pop()),
        end("size", "the number of entries|how many entries it has", "len(d)", lambda d, _: sum(1 for _key in d)),
        end("best_key",
            "the key of the largest value, first by name if tied, or ''|the key of the maximum (ties: first), or ''",
            'max(sorted(d), key=d.get, default="")',
            lambda d, _: ["", *(pair[1] for pair in reversed(_ordered((-d[key], key) for key in d)))].pop()),
        end("value_of", "the value of {k}, or 0 if it is missing|the value under {k} (0 if missing)", "d.get({k}, 0)",
            lambda d, k: [0, *(d[key] for key in d if key == k)].pop(), ("a", "b", "x")),
    ),
)  # fmt: skip


def _grid(source: random.Random) -> list[list[int]]:
    n_columns = source.randint(2, 3)
    return [[source.randint(-4, 9) for _ in range(n_columns)] for _ in range(source.randint(2, 3))]


def _cells(place: Callable[[int, int, int, int], tuple[int, int]]) -> Callable[[Any, Any], Any]:
    """Build a grid of the same shape: cell (i, j) comes from `place(i, j, rows, columns)`."""
    return lambda rows, _: [
        [rows[p][q] for j in range(len(rows[0])) for p, q in [place(i, j, len(rows), len(rows[0]))]]
        for i in range(len(rows))
    ]


def _column(rows: list[list[int]], j: int) -> list[int]:
    return [row[j] for row in rows]


def _every_cell(change: Callable[[int, Any], int]) -> Callable[[Any, Any], Any]:
    return lambda rows, k: [[change(rows[i][j], k) for j in range(len(rows[0]))] for i in range(len(rows))]


GRIDS = Family(
    "grids",
    "rows",
    "a grid given as a list of rows of integers",
    _grid,
    (
        step("transpose", "transpose the grid|swap rows and columns", "[list(r) for r in zip(*rows)]",
             lambda rows, _: [_column(rows, j) for j in range(len(rows[0]))]),
        step("mirror", "reverse each row|mirror the grid left to right", "[r[::-1] for r in rows]",
             _cells(lambda i, j, n, m: (i, m - 1 - j))),
        step("upside_down", "reverse the order of the rows|turn the grid upside down", "rows[::-1]",
             _cells(lambda i, j, n, m: (n - 1 - i, j))),
        step("add", "add {k} to each cell|increase every cell by {k}", "[[x + {k} for x in r] for r in rows]",
             _every_cell(lambda x, k: sum([x, *[1] * k])), range(1, 7)),
        step("multiply", "multiply each cell by {k}|take {k} times every cell", "[[x * {k} for x in r] for r in rows]",
             _every_cell(lambda x, k: sum([x] * k)), (2, 3, 4)),
        step("absolute", "take the absolute value of each cell|drop the sign of every cell",
             "[[abs(x) for x in r] for r in rows]", _every_cell(lambda x, _: max(x, -x))),
        step("sort_rows", "sort each row|put every row in ascending order", "[sorted(r) for r in rows]",
             lambda rows, _: [_ordered(row) for row in rows]),
        step("drop_row", "drop the first row|remove the first row", "rows[1:]",
             lambda rows, _: [row for i, row in enumerate(rows) if i]),
        step("drop_column", "drop the first column|remove the first cell of each row", "[r[1:] for r in rows]",
             lambda rows, _: [[x for j, x in enumerate(row) if j] for row in rows]),
        step("sort_grid", "sort the rows|put the rows in ascending order", "sorted(rows)",
             lambda rows, _: _ordered(rows)),
        end("row_sums", "the list of row sums|the sum of each row as a list", "[sum(r) for r in rows]",
            lambda rows, _: [sum(row[j] for j in range(len(row))) for row in rows]),
        end("column_sums", "the list of column sums|the sum of each column as a list", "[sum(c) for c in zip(*rows)]",
            lambda rows, _: [sum(_column(rows, j)) for j in range(len(rows[0]))] if rows else []),
        end("total", "the sum of all cells|all cells added up", "sum(sum(r) for r in rows)",
            lambda rows, _: sum(x for row in rows for x in row)),
        end("largest", "the largest cell|the maximum of all cells", "max(max(r) for r in rows)",
            lambda rows, _: _ordered(x for row in rows for x in row).pop()),
        end("flat", "the list of all cells, row by row|all cells in one list", "[x for r in rows for x in r]",
            lambda rows, _: [rows[i][j] for i in range(len(rows)) for j in range(len(rows[0]))]),
        end("corner", "the last cell of the last row|the bottom right cell", "rows[-1][-1]",
            lambda rows, _: rows[len(rows) - 1][len(rows[0]) - 1]),
        end("diagonal", "the list of cells (i, i)|the main diagonal as a list",
            "[rows[i][i] for i in range(min(len(rows), len(rows[0])))]",
            lambda rows, _: [x for i, row in enumerate(rows) for j, x in enumerate(row) if i == j]),
    ),
)  # fmt: skip
