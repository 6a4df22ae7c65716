"""A small set of programming tasks written for this project, so that evaluation works where no benchmark file is found.

A task is a Python function to complete from its signature and docstring. The hidden tests are calls on seeded inputs;
their expected values come from an oracle, trusted code that is written differently from the gold solution and never
enters the sandbox. Every task proves itself: the gold solution must earn reward 1 and the wrong one must not.
Not covered: anything that needs files, input and output, classes or other languages.
"""

from __future__ import annotations

import collections
import functools
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NAME = "micro_tasks"
_N_CASES = 12
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty")


@dataclass(frozen=True, slots=True)
class MicroTask:
    """One task. `gold` and `wrong` are function bodies, indented, that follow `prompt`."""

    name: str
    prompt: str
    gold: str
    wrong: str
    oracle: Callable[..., Any]
    draw: Callable[[random.Random], tuple[Any, ...]]

    @property
    def entry_point(self) -> str:
        """The name of the function to write."""
        return self.name

    def inputs(self) -> list[tuple[Any, ...]]:
        """Return the arguments of the hidden calls, the same on every machine."""
        source = random.Random(f"micro/{self.name}")
        return [self.draw(source) for _ in range(_N_CASES)]

    def expected(self) -> list[Any]:
        """Return what the oracle says of `inputs()`."""
        return [self.oracle(*arguments) for arguments in self.inputs()]


def _task(
    signature: str, doc: str, gold: str, wrong: str, oracle: Callable[..., Any], draw: Callable[..., Any]
) -> MicroTask:
    name = signature.partition("(")[0]
    prompt = f'def {signature}:\n    """{doc}"""\n'
    return MicroTask(name, prompt, _indent(gold), _indent(wrong), oracle, draw)


def _indent(body: str) -> str:
    return "".join(f"    {line}\n" for line in body.splitlines())


def _ints(source: random.Random, low: int = -9, high: int = 9, longest: int = 8) -> list[int]:
    return [source.randint(low, high) for _ in range(source.randint(0, longest))]


def _word(source: random.Random) -> str:
    return source.choice(_WORDS)


def _words(source: random.Random, fewest: int = 0) -> list[str]:
    return [_word(source) for _ in range(source.randint(fewest, 6))]


def _clamp(value: int, low: int, high: int) -> int:
    return sorted((low, value, high))[1]


def _run_lengths(text: str) -> list[tuple[str, int]]:
    return [(m.group(1), len(m.group(0))) for m in re.finditer(r"(.)\1*", text)]


def _merge_spans(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    covered = {x for low, high in spans for x in range(2 * low, 2 * high + 1)}  # doubled: gaps of one stay gaps
    edges = [x for x in sorted(covered) if x - 1 not in covered]
    return [(low // 2, next(x for x in range(low, 10**6) if x + 1 not in covered) // 2) for low in edges]


def _spans(source: random.Random) -> list[tuple[int, int]]:
    lows = [source.randint(0, 20) for _ in range(source.randint(0, 5))]
    return [(low, low + source.randint(1, 6)) for low in lows]


def _balanced(text: str) -> bool:
    while "()" in text or "[]" in text:
        text = text.replace("()", "").replace("[]", "")
    return not text


def _count_primes(limit: int) -> int:
    return sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in range(2, limit))


def _roman(number: int) -> str:
    tens = ("", "X", "XX", "XXX", "XL", "L", "LX", "LXX", "LXXX", "XC")
    units = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")
    return tens[number // 10] + units[number % 10]


def _shift(text: str, steps: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return text.translate(str.maketrans(letters, letters[steps % 26 :] + letters[: steps % 26]))


TASKS: tuple[MicroTask, ...] = (
    _task(
        "add_tax(price, percent)",
        "Return price raised by percent per cent, as a float rounded to 2 digits.",
        "return round(price * (100 + percent) / 100, 2)",
        "return price * percent / 100",
        lambda price, percent: round(price * (100 + percent) / 100, 2),
        lambda s: (s.randint(1, 500), s.randint(0, 40)),
    ),
    _task(
        "clamp(value, low, high)",
        "Return value, but at least low and at most high.",
        "if value < low:\n    return low\nreturn high if value > high else value",
        "return min(value, high)",
        _clamp,
        lambda s: (s.randint(-20, 20), s.randint(-10, 0), s.randint(1, 10)),
    ),
    _task(
        "sum_of_evens(numbers)",
        "Return the sum of the even numbers in the list.",
        "total = 0\nfor number in numbers:\n    if number % 2 == 0:\n        total += number\nreturn total",
        "return sum(numbers)",
        lambda numbers: sum(n for n in numbers if not n & 1),
        lambda s: (_ints(s),),
    ),
    _task(
        "reverse_words(sentence)",
        "Return the words of the sentence in reverse order, joined by single spaces.",
        'return " ".join(reversed(sentence.split()))',
        "return sentence[::-1]",
        lambda sentence: " ".join(sentence.split()[::-1]),
        lambda s: ("  ".join(_words(s, 1)),),
    ),
    _task(
        "vowel_count(text)",
        "Return how many characters of text are one of a, e, i, o, u, in either case.",
        'return sum(text.lower().count(vowel) for vowel in "aeiou")',
        'return sum(c in "aeio" for c in text)',
        lambda text: len(re.findall("[aeiouAEIOU]", text)),
        lambda s: ("Umbra " + "".join(_words(s)).title(),),
    ),
    _task(
        "digits_product(number)",
        "Return the product of the decimal digits of a non-negative integer.",
        "product = 1\nfor digit in str(number):\n    product *= int(digit)\nreturn product",
        "return sum(int(digit) for digit in str(number))",
        lambda number: math.prod(map(int, str(number))),
        lambda s: (s.randint(0, 99999),),
    ),
    _task(
        "second_largest(numbers)",
        "Return the second largest of the distinct values, or None when there are fewer than two.",
        "values = sorted(set(numbers))\nreturn values[-2] if len(values) > 1 else None",
        "return sorted(numbers)[-2] if len(numbers) > 1 else None",
        lambda numbers: max((n for n in numbers if n != max(numbers)), default=None),
        lambda s: (_ints(s, 0, 4, 5),),
    ),
    _task(
        "run_lengths(text)",
        "Return the runs of equal characters as a list of (character, length) tuples.",
        "runs = []\nfor c in text:\n    if runs and runs[-1][0] == c:\n        runs[-1] = (c, runs[-1][1] + 1)\n"
        "    else:\n        runs.append((c, 1))\nreturn runs",
        "return [(c, text.count(c)) for c in sorted(set(text))]",
        _run_lengths,
        lambda s: ("".join(s.choice("aab") for _ in range(s.randint(0, 9))),),
    ),
    _task(
        "merge_spans(spans)",
        "Merge overlapping or touching (start, end) tuples; return the sorted list of tuples.",
        "merged = []\nfor start, end in sorted(spans):\n    if merged and start <= merged[-1][1]:\n"
        "        merged[-1] = (merged[-1][0], max(end, merged[-1][1]))\n    else:\n"
        "        merged.append((start, end))\nreturn merged",
        "return sorted(set(spans))",
        _merge_spans,
        lambda s: (_spans(s),),
    ),
    _task(
        "is_balanced(text)",
        "Tell whether the round and square brackets in text, which holds nothing else, match and nest properly.",
        'stack = []\nfor c in text:\n    if c in "([":\n        stack.append(c)\n'
        '    elif not stack or stack.pop() + c not in ("()", "[]"):\n        return False\nreturn not stack',
        'return text.count("(") == text.count(")") and text.count("[") == text.count("]")',
        _balanced,
        lambda s: (s.choice(["", "([])", "([)]", "][", "()[]", "(()"]) + s.choice(["", "[]", "(", ")("]),),
    ),
    _task(
        "count_primes(limit)",
        "Return the number of primes smaller than limit.",
        "sieve = [True] * max(limit, 2)\nfor n in range(2, limit):\n    if sieve[n]:\n"
        "        for multiple in range(2 * n, limit, n):\n            sieve[multiple] = False\n"
        "return sum(sieve[2:limit])",
        "return sum(n % 2 == 1 for n in range(2, limit))",
        _count_primes,
        lambda s: (s.randint(0, 300),),
    ),
    _task(
        "to_roman(number)",
        "Return the Roman numeral of an integer from 1 to 99.",
        'text = ""\nfor value, letters in ((90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), '
        '(4, "IV"), (1, "I")):\n    while number >= value:\n        text += letters\n        number -= value\n'
        "return text",
        'return "X" * (number // 10) + "I" * (number % 10)',
        _roman,
        lambda s: (s.randint(1, 99),),
    ),
    _task(
        "shift_letters(text, steps)",
        "Move each lower-case letter of text forward by steps in the alphabet, wrapping round; keep the rest.",
        'return "".join(chr((ord(c) - 97 + steps) % 26 + 97) if "a" <= c <= "z" else c for c in text)',
        'return "".join(chr(ord(c) + steps) for c in text)',
        _shift,
        lambda s: (" ".join(_words(s)) + "!", s.randint(-30, 30)),
    ),
    _task(
        "group_by_length(words)",
        "Return a dict from word length to the list of words of that length, in their order.",
        "groups = {}\nfor word in words:\n    groups.setdefault(len(word), []).append(word)\nreturn groups",
        "return {len(word): [word] for word in words}",
        lambda words: {n: [w for w in words if len(w) == n] for n in {len(w) for w in words}},
        lambda s: ([_word(s)[: s.randint(1, 4)] for _ in range(s.randint(0, 7))],),
    ),
    _task(
        "common_items(left, right)",
        "Return the set of the items that are in both lists.",
        "return set(left) & set(right)",
        "return [item for item in left if item in right]",
        lambda left, right: {item for item in left if item in right},
        lambda s: (_ints(s, 0, 5), _ints(s, 0, 5)),
    ),
    _task(
        "moving_average(numbers, width)",
        "Return the list of means of every window of width consecutive numbers.",
        "return [sum(numbers[i : i + width]) / width for i in range(len(numbers) - width + 1)]",
        "return [sum(numbers[i : i + width]) // width for i in range(len(numbers))]",
        lambda numbers, width: [
            sum(window) / width for window in zip(*(numbers[i:] for i in range(width)), strict=False)
        ],
        lambda s: (_ints(s), s.randint(1, 4)),
    ),
    _task(
        "transpose(rows)",
        "Return the transposed matrix as a list of lists; rows is a non-empty list of lists of equal length.",
        "return [list(column) for column in zip(*rows)]",
        "return [row[::-1] for row in rows]",
        lambda rows: [[row[i] for row in rows] for i in range(len(rows[0]))],
        lambda s: ((lambda width: [[s.randint(0, 9) for _ in range(width)] for _ in range(3)])(s.randint(1, 4)),),
    ),
    _task(
        "flatten(nested)",
        "Return the integers of arbitrarily nested lists as one flat list, in order.",
        "flat = []\nfor item in nested:\n    if isinstance(item, list):\n        flat.extend(flatten(item))\n"
        "    else:\n        flat.append(item)\nreturn flat",
        "return [x for item in nested for x in (item if isinstance(item, list) else [item])]",
        lambda nested: [int(n) for n in re.findall(r"-?\d+", repr(nested))],
        lambda s: ([s.randint(0, 9), [_ints(s), [s.randint(0, 9), [_ints(s)]]]],),
    ),
    _task(
        "most_common_letter(text)",
        "Return the letter that occurs most often in text; of several, the first in the alphabet.",
        "return min(set(text), key=lambda letter: (-text.count(letter), letter))",
        "return max(text)",
        lambda text: sorted(collections.Counter(text).items(), key=lambda pair: (-pair[1], pair[0]))[0][0],
        lambda s: ("".join(_words(s, 1)),),
    ),
    _task(
        "collatz_steps(number)",
        "Return how many steps it takes to reach 1 when n becomes n / 2 if even and 3 * n + 1 if odd.",
        "steps = 0\nwhile number != 1:\n    number = number // 2 if number % 2 == 0 else 3 * number + 1\n"
        "    steps += 1\nreturn steps",
        "return number.bit_length() - 1",
        lambda number: _collatz(number),
        lambda s: (s.randint(1, 200),),
    ),
    _task(
        "insert_position(ordered, value)",
        "Return the leftmost index at which value can be inserted so that the ascending list stays in order.",
        "low, high = 0, len(ordered)\nwhile low < high:\n    middle = (low + high) // 2\n"
        "    if ordered[middle] < value:\n        low = middle + 1\n    else:\n        high = middle\nreturn low",
        "return sum(item <= value for item in ordered)",
        lambda ordered, value: sum(item < value for item in ordered),
        lambda s: (sorted(_ints(s, 0, 5)), s.randint(0, 5)),
    ),
    _task(
        "longest_common_prefix(words)",
        "Return the longest string with which all the words begin; the list is not empty.",
        "prefix = words[0]\nfor word in words[1:]:\n    while not word.startswith(prefix):\n"
        "        prefix = prefix[:-1]\nreturn prefix",
        "return words[0][:1]",
        lambda words: functools.reduce(_prefix, words),
        lambda s: (
            [_word(s)[:2] + tail for tail in ("", "s", "st")][: s.randint(1, 3)] + [_word(s)] * s.randint(0, 1),
        ),
    ),
    _task(
        "parse_pairs(text)",
        'Parse text such as "a=1;b=22" into a dict from name to integer; an empty text gives an empty dict.',
        'pairs = {}\nfor part in text.split(";"):\n    if part:\n        name, value = part.split("=")\n'
        "        pairs[name] = int(value)\nreturn pairs",
        'return dict(part.split("=") for part in text.split(";") if part)',
        lambda text: {name: int(value) for name, value in re.findall(r"(\w+)=(-?\d+)", text)},
        lambda s: (";".join(f"{word}={s.randint(-50, 50)}" for word in _words(s)),),
    ),
    _task(
        "climb_ways(stairs)",
        "Return in how many ways one can climb the stairs taking 1, 2 or 3 at a time.",
        "ways = [1, 1, 2]\nwhile len(ways) <= stairs:\n    ways.append(ways[-1] + ways[-2] + ways[-3])\n"
        "return ways[stairs]",
        "return 2 ** max(stairs - 1, 0)",
        lambda stairs: _climb(stairs),
        lambda s: (s.randint(0, 18),),
    ),
)


def _prefix(left: str, right: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    return left[:length]


def _collatz(number: int) -> int:
    return 0 if number == 1 else 1 + _collatz(3 * number + 1 if number & 1 else number >> 1)


@functools.cache
def _climb(stairs: int) -> int:
    return int(stairs == 0) if stairs <= 0 else sum(_climb(stairs - step) for step in (1, 2, 3))
