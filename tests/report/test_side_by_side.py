"""Differences and shared words."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from codeflow.report.side_by_side import MAX_LINES, difference, shared_words

LINES = st.lists(st.sampled_from(["a", "b = 1", "b = 2", "", "<b>"]), max_size=30)


def test_rows() -> None:
    left = "one\ntwo\nthree\nfour\nfive\nsix\nvalue = old + 1\n"
    right = "one\ntwo\nthree\nfour\nfive\nsix\nvalue = new + 1\nmore\n"
    rows = difference(left, right)
    assert [row.kind for row in rows] == ["gap", "equal", "equal", "changed", "right"]
    assert rows[0].left_text == "4 equal lines"
    assert (rows[3].left, rows[3].right) == (7, 7)
    assert rows[3].left_text == "value = <b>old</b> + 1"
    assert rows[3].right_text == "value = <b>new</b> + 1"
    assert (rows[4].left, rows[4].right, rows[4].right_text) == (0, 8, "more")


@given(LINES, LINES)
def test_every_line_is_shown_or_counted(left: list[str], right: list[str]) -> None:
    rows = difference("\n".join(left), "\n".join(right))
    hidden = sum(int(row.left_text.split()[0]) for row in rows if row.kind == "gap")
    for side, lines in (("left", left), ("right", right)):
        numbers = [getattr(row, side) for row in rows if getattr(row, side)]
        assert numbers == sorted(set(numbers))
        assert len(numbers) + hidden == len("\n".join(lines).splitlines())
    assert "<b>&lt;b&gt;" not in "".join(row.left_text for row in rows if row.kind == "equal")


def test_hostile_sizes_end_soon() -> None:
    started = time.monotonic()
    rows = difference("a\nb\n" * 50_000, "b\na\na\n" * 50_000)
    assert len(rows) <= 2 * MAX_LINES
    difference("x " * 100_000, "y x " * 100_000)
    shared_words("a b " * 10_000, "b a a " * 10_000)
    assert time.monotonic() - started < 20


def test_shared_words() -> None:
    left, right = shared_words("def Add(a, b): return a", "add a and <b>")
    assert left == "def <mark>Add(a</mark>, <mark>b</mark>): return a"
    assert right == "<mark>add a</mark> and &lt;<mark>b</mark>&gt;"
    assert shared_words("", "x") == ("", "x")
