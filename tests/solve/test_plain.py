from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.solve.plain import canonical, from_tree, to_tree

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
_KEYS = _SCALARS | st.tuples(_SCALARS)
_VALUES = st.recursive(
    _SCALARS | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(_KEYS, inner, max_size=3)
        | st.sets(_KEYS, max_size=3)
        | st.frozensets(_KEYS, max_size=3)
    ),
    max_leaves=8,
)


@given(_VALUES)
def test_round_trip_through_json(value):
    tree = json.loads(json.dumps(to_tree(value)))
    back = from_tree(tree)
    assert type(back) is type(value)
    assert back == value
    assert canonical(to_tree(back)) == canonical(tree)


@given(_VALUES, _VALUES)
def test_canonical_text_tells_values_apart(left, right):
    if canonical(to_tree(left)) == canonical(to_tree(right)):
        assert type(left) is type(right)
        assert left == right


@pytest.mark.parametrize(
    ("left", "right"),
    [(1, True), (1, 1.0), ([1], (1,)), ({1}, frozenset({1})), ({1: 0}, {True: 0}), ({1: 0}, {1.0: 0}), ("1", 1)],
)
def test_types_are_exact(left, right):
    assert canonical(to_tree(left)) != canonical(to_tree(right))


def test_order_nan_and_zero():
    assert canonical(to_tree({1: 2, 3: 4})) == canonical(to_tree({3: 4, 1: 2}))
    assert canonical(["s", ["i", "1"], ["i", "2"]]) == canonical(["s", ["i", "2"], ["i", "1"]])
    assert canonical(to_tree(math.nan)) == canonical(to_tree(float("nan")))
    assert canonical(to_tree(-0.0)) == canonical(to_tree(0.0))


def test_only_plain_values():
    class Sub(int):
        pass

    for value in (Sub(1), object(), range(3), [Sub(1)]):
        with pytest.raises(TypeError, match="not a plain value"):
            to_tree(value)


@pytest.mark.parametrize("tree", [1, 1.5, [], ["x"], ["i"], ["i", 1], ["f", "x"], ["d", None], ["c", "0x0p0"], {}])
def test_what_is_no_tree_is_refused(tree):
    with pytest.raises(ValueError):
        canonical(tree)
