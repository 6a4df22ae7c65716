"""Families over lists of integers, and over lists of intervals.

Oracles walk by index and build results one element at a time where the solutions slice, sort and comprehend.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from codeflow.synth.primitive import Family, Primitive, end, step


def _integers(low: int, high: int, fewest: int, most: int) -> Callable[[random.Random], list[int]]:
    return lambda source: [source.randint(low, high) for _ in range(source.randint(fewest, most))]


def _backwards(xs: list[Any]) -> list[Any]:
    found: list[Any] = []
    for x in xs:
        found.insert(0, x)
    return found


def _ordered(xs: list[Any], place: Callable[[Any], Any] = lambda x: x) -> list[Any]:
    """Stable insertion sort."""
    found: list[Any] = []
    for x in xs:
        at = len(found)
        while at and place(found[at - 1]) > place(x):
            at -= 1
        found.insert(at, x)
    return found


def _at(xs: list[Any], wanted: Callable[[int], bool]) -> list[Any]:
    return [x for i, x in enumerate(xs) if wanted(i)]


def _first_of_each(xs: list[Any]) -> list[Any]:
    return [x for i, x in enumerate(xs) if x not in xs[:i]]


def _how_often(xs: list[int], wanted: int) -> int:
    return len([x for x in xs if x == wanted])


def _total(xs: list[int]) -> int:
    total = 0
    for x in xs:
        total += x
    return total


def _running(xs: list[int], _: Any) -> list[int]:
    found: list[int] = []
    for x in xs:
        found.append(x + (found[-1] if found else 0))
    return found


def _middle(xs: list[int], _: Any) -> int:
    before, after = 0, len(xs) - 1
    while after > before:
        before, after = before + 1, after - 1
    return xs[before] if xs else 0


def _most_frequent(xs: list[int], _: Any) -> int:
    pairs = [(-_how_often(xs, x), x) for x in xs]
    return _ordered(pairs)[0][1] if pairs else 0


# Phrases say "the list"; these primitives serve in several families.
REVERSE = step("reverse", "reverse the list|turn the list around", "xs[::-1]", lambda xs, _: _backwards(xs))
DISTINCT = step("distinct", "remove repeated elements, keeping first occurrences|keep the first of equal elements",
                "list(dict.fromkeys(xs))", lambda xs, _: _first_of_each(xs))  # fmt: skip
FIRST_K = step("first_k", "keep the first {k} elements|cut the list after {k} elements", "xs[:{k}]",
               lambda xs, k: _at(xs, lambda i: i < k), (2, 3, 4))  # fmt: skip
SUM = end("sum", "the sum of the list|the sum of the elements", "sum(xs)", lambda xs, _: _total(xs))

LISTS = Family(
    "lists",
    "xs",
    "a list of integers",
    _integers(-9, 20, 2, 6),
    (
        REVERSE,
        step("every_second", "keep every second element, starting with the first|keep the elements at even positions",
             "xs[::2]", lambda xs, _: _at(xs, lambda i: i % 2 == 0)),
        step("drop_first", "drop the first element|remove the first element", "xs[1:]",
             lambda xs, _: _at(xs, lambda i: i > 0)),
        step("drop_last", "drop the last element|remove the last element", "xs[:-1]",
             lambda xs, _: _at(xs, lambda i: i < len(xs) - 1)),
        FIRST_K,
        step("last_k", "keep the last {k} elements|keep only the final {k} elements", "xs[-{k}:]",
             lambda xs, k: _at(xs, lambda i: i >= len(xs) - k), (2, 3, 4)),
        step("rotate", "move the first element to the end|rotate the list left by one", "xs[1:] + xs[:1]",
             lambda xs, _: [xs[(i + 1) % len(xs)] for i in range(len(xs))]),
        step("twice", "repeat the list twice|append the list to itself", "xs + xs", lambda xs, _: [*xs, *xs]),
        step("append", "append {k}|add {k} at the end", "xs + [{k}]", lambda xs, k: [*xs, k], range(1, 10)),
        step("prepend", "put {k} in front|add {k} at the start", "[{k}] + xs", lambda xs, k: [k, *xs], range(1, 10)),
        step("running", "take the running sums|replace each element by the sum up to it",
             "[sum(xs[:i + 1]) for i in range(len(xs))]", _running),
        step("differences", "take the differences between neighbours|subtract each element from the next one",
             "[b - a for a, b in zip(xs, xs[1:])]", lambda xs, _: [xs[i + 1] - xs[i] for i in range(len(xs) - 1)]),
        SUM,
        end("length", "the length of the list|the number of elements", "len(xs)", lambda xs, _: sum(1 for _x in xs)),
        end("first", "the first element, or 0 if there is none|the first element (0 for an empty list)",
            "xs[0] if xs else 0", lambda xs, _: [*xs, 0][0]),
        end("last", "the last element, or 0 if there is none|the last element (0 for an empty list)",
            "xs[-1] if xs else 0", lambda xs, _: [0, *xs].pop()),
        end("ends", "the sum of first and last element, or 0 if empty|first plus last element (0 if empty)",
            "xs[0] + xs[-1] if xs else 0", lambda xs, _: [*xs, 0][0] + [0, *xs].pop()),
    ),
)  # fmt: skip


def _each(name: str, phrases: str, code: str, oracle: Callable[..., int], parameters: Any = ()) -> Primitive:
    return step(
        name, phrases, f"[{code} for x in xs]", lambda xs, k: [oracle(xs[i], k) for i in range(len(xs))], parameters
    )


def _keep(name: str, phrases: str, code: str, oracle: Callable[..., bool], parameters: Any = ()) -> Primitive:
    return step(
        name, phrases, f"[x for x in xs if {code}]", lambda xs, k: list(filter(lambda x: oracle(x, k), xs)), parameters
    )


_EVEN_DIGITS, _ODD_DIGITS = "02468", "13579"

MAPPING = Family(
    "mapping",
    "xs",
    "a list of integers",
    _integers(-9, 15, 2, 6),
    (
        _keep("keep_even", "keep the even elements|remove the odd elements", "x % 2 == 0",
              lambda x, _: str(x)[-1] in _EVEN_DIGITS),
        _keep("keep_odd", "keep the odd elements|remove the even elements", "x % 2 == 1",
              lambda x, _: str(x)[-1] in _ODD_DIGITS),
        _keep("keep_positive", "keep the positive elements|remove zeros and negative elements", "x > 0",
              lambda x, _: x in range(1, 10**6)),
        _keep("keep_above", "keep the elements greater than {k}|remove the elements up to {k}", "x > {k}",
              lambda x, k: not x <= k, (-2, -1, 1, 2, 3, 4, 5, 7)),
        _keep("drop_value", "remove every {k}|drop the elements equal to {k}", "x != {k}",
              lambda x, k: x < k or x > k, (0, 1, 2, 4)),
        _each("add", "add {k} to each element|increase every element by {k}", "x + {k}", lambda x, k: x - (0 - k),
              range(1, 8)),
        _each("multiply", "multiply each element by {k}|take {k} times every element", "x * {k}",
              lambda x, k: sum([x] * k), range(2, 6)),
        _each("square", "square each element|replace each element by its square", "x * x",
              lambda x, _: sum([abs(x)] * abs(x))),
        _each("absolute", "take the absolute value of each element|drop the sign of every element", "abs(x)",
              lambda x, _: max(x, -x)),
        _each("negate", "negate each element|change the sign of every element", "-x", lambda x, _: 0 - x),
        _each("cap", "cap each element at {k}|limit every element to at most {k}", "min(x, {k})",
              lambda x, k: k if x > k else x, range(3, 9)),
        DISTINCT,
        SUM,
        end("count", "the number of elements|the length of the list", "len(xs)", lambda xs, _: sum(1 for _x in xs)),
        end("largest", "the largest element, or 0 if there is none|the maximum (0 for an empty list)",
            "max(xs, default=0)", lambda xs, _: [0, *_ordered(xs)].pop()),
        end("smallest", "the smallest element, or 0 if there is none|the minimum (0 for an empty list)",
            "min(xs, default=0)", lambda xs, _: [*_ordered(xs), 0][0]),
        end("any_above", "whether any element is greater than {k}|whether some element exceeds {k}",
            "any(x > {k} for x in xs)", lambda xs, k: [x for x in xs if not x <= k] != [], range(3, 12)),
    ),
)  # fmt: skip

SORTING = Family(
    "sorting",
    "xs",
    "a list of integers",
    _integers(-20, 30, 2, 6),
    (
        step("ascending", "sort the list in ascending order|sort the list", "sorted(xs)", lambda xs, _: _ordered(xs)),
        step("descending", "sort the list in descending order|sort the list from high to low",
             "sorted(xs, reverse=True)", lambda xs, _: _backwards(_ordered(xs))),
        step("by_absolute", "sort the list by absolute value|order the list by absolute value, keeping ties in order",
             "sorted(xs, key=abs)", lambda xs, _: _ordered(xs, lambda x: max(x, -x))),
        step("by_digit", "sort the list by remainder modulo 10|order the list by x modulo 10, keeping ties in order",
             "sorted(xs, key=lambda x: x % 10)", lambda xs, _: _ordered(xs, lambda x: x - x // 10 * 10)),
        step("even_first", "move the even elements to the front|put even elements before odd ones, in order",
             "sorted(xs, key=lambda x: x % 2)",
             lambda xs, _: [x for digits in (_EVEN_DIGITS, _ODD_DIGITS) for x in xs if str(x)[-1] in digits]),
        step("every_second", "keep every second element, starting with the first|keep the elements at even positions",
             "xs[::2]", lambda xs, _: _at(xs, lambda i: i % 2 == 0)),
        REVERSE,
        FIRST_K,
        step("drop_first", "drop the first element|remove the first element", "xs[1:]",
             lambda xs, _: _at(xs, lambda i: i > 0)),
        step("halves", "swap the two halves, the first being the shorter|move the first half behind the second",
             "xs[len(xs) // 2:] + xs[:len(xs) // 2]",
             lambda xs, _: [xs[(i + len(xs) // 2) % len(xs)] for i in range(len(xs))]),
        end("second", "the second element, or 0 if there is none|the second element (0 if missing)",
            "xs[1] if len(xs) > 1 else 0", lambda xs, _: [*xs, 0, 0][1] if xs[1:] else 0),
        end("middle", "the element at the middle position, or 0 if empty|the middle element (index len // 2), or 0",
            "xs[len(xs) // 2] if xs else 0", _middle),
        end("spread", "the last minus the first element, or 0 if empty|the difference of last and first (0 if empty)",
            "xs[-1] - xs[0] if xs else 0", lambda xs, _: _total([xs[i + 1] - xs[i] for i in range(len(xs) - 1)])),
        end("sum_first", "the sum of the first {k} elements|the first {k} elements added up", "sum(xs[:{k}])",
            lambda xs, k: _total(_at(xs, lambda i: i < k)), (2, 3)),
        end("is_sorted", "whether the list is in ascending order|whether the list is sorted", "xs == sorted(xs)",
            lambda xs, _: not [i for i in range(len(xs) - 1) if xs[i] > xs[i + 1]]),
    ),
)  # fmt: skip

COUNTING = Family(
    "counting",
    "xs",
    "a list of small integers",
    _integers(0, 5, 3, 8),
    (
        step("repeated", "keep the elements that occur more than once|keep only repeated elements",
             "[x for x in xs if xs.count(x) > 1]",
             lambda xs, _: [x for i, x in enumerate(xs) if x in xs[:i] or x in xs[i + 1 :]]),
        step("single", "keep the elements that occur exactly once|remove all repeated elements",
             "[x for x in xs if xs.count(x) == 1]",
             lambda xs, _: [x for i, x in enumerate(xs) if x not in xs[:i] and x not in xs[i + 1 :]]),
        step("occurrences", "replace each element by how often it occurs|replace every element by its count",
             "[xs.count(x) for x in xs]", lambda xs, _: [_how_often(xs, x) for x in xs]),
        _keep("drop_value", "remove every {k}|drop the elements equal to {k}", "x != {k}",
              lambda x, k: x < k or x > k, range(5)),
        _keep("below", "keep the elements smaller than {k}|remove elements from {k} on", "x < {k}",
              lambda x, k: not x >= k, (2, 3, 4)),
        step("without_neighbours", "keep elements that differ from the one before|collapse runs of equal neighbours",
             "[x for i, x in enumerate(xs) if i == 0 or x != xs[i - 1]]",
             lambda xs, _: [a for a, b in zip(xs, [None, *xs], strict=False) if a != b]),
        DISTINCT,
        step("drop_last", "drop the last element|remove the last element", "xs[:-1]",
             lambda xs, _: _at(xs, lambda i: i < len(xs) - 1)),
        step("append", "append {k}|add {k} at the end", "xs + [{k}]", lambda xs, k: [*xs, k], range(5)),
        end("n_distinct", "the number of different elements|how many different elements there are", "len(set(xs))",
            lambda xs, _: len(_first_of_each(xs))),
        end("count_of", "how often {k} occurs|the number of elements equal to {k}", "xs.count({k})",
            lambda xs, k: _how_often(xs, k), range(5)),
        end("most_frequent",
            "the most frequent element, the smallest if tied, or 0|the commonest (ties: smallest; 0 if none)",
            "max(sorted(set(xs)), key=xs.count, default=0)", _most_frequent),
        end("counts", "a dictionary from element to count|a dictionary of how often each element occurs",
            "{x: xs.count(x) for x in xs}", lambda xs, _: {x: _how_often(xs, x) for x in _first_of_each(xs)}),
        end("all_distinct", "whether all elements are different|whether no element occurs twice",
            "len(xs) == len(set(xs))", lambda xs, _: not [i for i, x in enumerate(xs) if x in xs[:i]]),
        end("n_even", "the number of even elements|how many elements are even", "sum(x % 2 == 0 for x in xs)",
            lambda xs, _: len([x for x in xs if str(x)[-1] in _EVEN_DIGITS])),
        SUM,
    ),
)  # fmt: skip


def _spans(source: random.Random) -> list[tuple[int, int]]:
    lows = [source.randint(0, 12) for _ in range(source.randint(2, 4))]
    return [(low, low + source.randint(1, 7)) for low in lows]


def _points(low: int, high: int) -> set[int]:
    return set(range(low, high))


INTERVALS = Family(
    "intervals",
    "spans",
    "a list of intervals (start, end)",
    _spans,
    (
        step("by_start", "sort the intervals|sort the intervals by start, then end", "sorted(spans)",
             lambda spans, _: _ordered(spans)),
        step("by_end", "sort the intervals by end|order the intervals by end, keeping ties in order",
             "sorted(spans, key=lambda p: p[1])", lambda spans, _: _ordered(spans, lambda p: p[1])),
        step("longer", "keep the intervals longer than {k}|remove intervals of length up to {k}",
             "[(a, b) for a, b in spans if b - a > {k}]",
             lambda spans, k: [p for p in spans if len(_points(*p)) > k], (2, 3, 4)),
        step("shift", "shift every interval by {k}|add {k} to all starts and ends",
             "[(a + {k}, b + {k}) for a, b in spans]", lambda spans, k: [tuple(x + k for x in p) for p in spans],
             range(1, 6)),
        step("holding", "keep the intervals with start <= {k} <= end|keep intervals that contain {k}, ends included",
             "[(a, b) for a, b in spans if a <= {k} <= b]",
             lambda spans, k: [p for p in spans if k in _points(p[0], p[1] + 1)], range(5, 10)),
        step("widen", "widen every interval by 1 on both sides|move starts down and ends up by 1",
             "[(a - 1, b + 1) for a, b in spans]", lambda spans, _: [(p[0] - 1, p[1] + 1) for p in spans]),
        step("drop_first", "drop the first interval|remove the first interval", "spans[1:]",
             lambda spans, _: _at(spans, lambda i: i > 0)),
        step("reverse", "reverse the list|turn the list around", "spans[::-1]", lambda spans, _: _backwards(spans)),
        step("first_k", "keep the first {k} intervals|cut the list after {k} intervals", "spans[:{k}]",
             lambda spans, k: _at(spans, lambda i: i < k), (1, 2, 3)),
        end("total", "the sum of the lengths|the total length, counting overlaps twice",
            "sum(b - a for a, b in spans)", lambda spans, _: _total([len(_points(*p)) for p in spans])),
        end("count", "the number of intervals|how many intervals there are", "len(spans)",
            lambda spans, _: sum(1 for _p in spans)),
        end("latest", "the largest end, or 0 if there is none|the latest end (0 if empty)",
            "max((b for a, b in spans), default=0)", lambda spans, _: [0, *_ordered([p[1] for p in spans])].pop()),
        end("lengths", "the list of lengths|the length of each interval as a list", "[b - a for a, b in spans]",
            lambda spans, _: [len(_points(*p)) for p in spans]),
        end("starts", "the list of starts|the start of each interval as a list", "[a for a, b in spans]",
            lambda spans, _: [p[0] for p in spans]),
        end("covered",
            "how many integers have start <= x < end somewhere|the number of integers covered, ends excluded",
            "len({x for a, b in spans for x in range(a, b)})",
            lambda spans, _: len([x for x in range(-9, 60) if [p for p in spans if p[0] <= x < p[1]]])),
    ),
)  # fmt: skip
