"""Families over strings: characters, words, comma-separated numbers, and machines that read moves.

Oracles go character by character where the solutions use string methods.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from codeflow.synth.primitive import Family, Primitive, end, step

_LOWER, _UPPER, _VOWELS = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "aeiou"
_TO_UPPER, _TO_LOWER = dict(zip(_LOWER, _UPPER, strict=True)), dict(zip(_UPPER, _LOWER, strict=True))
_SYLLABLES = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "ro", "su", "ta", "e", "a", "ran", "lis", "pop", "nun")
_WORDS = (
    "ant",
    "bee",
    "cat",
    "dog",
    "eel",
    "fox",
    "goat",
    "horse",
    "ibis",
    "jay",
    "koala",
    "lynx",
    "mole",
    "newt",
    "owl",
)


def _letters(source: random.Random) -> str:
    text = "".join(source.choice(_SYLLABLES) for _ in range(source.randint(2, 4)))
    return "".join(_TO_UPPER[c] if source.random() < 0.2 else c for c in text)


def _joined(parts: Any, gap: str = "") -> str:
    text = ""
    for number, part in enumerate(parts):
        text += (gap if number else "") + part
    return text


def _backwards(s: Any) -> list[Any]:
    return [s[i] for i in range(len(s) - 1, -1, -1)]


def _first(s: Any, k: int) -> list[Any]:
    return [c for i, c in enumerate(s) if i < k]


def _seen_first(s: Any) -> list[Any]:
    found: list[Any] = []
    for c in s:
        if c not in found:
            found.append(c)
    return found


def _smallest_first(parts: Any, place: Callable[[Any], Any] = lambda x: x) -> list[Any]:
    left, found = list(parts), []
    while left:
        found.append(left.pop(min(range(len(left)), key=lambda i: (place(left[i]), i))))
    return found


def _upper(s: str) -> str:
    return _joined(_TO_UPPER.get(c, c) for c in s)


def _lower(s: str) -> str:
    return _joined(_TO_LOWER.get(c, c) for c in s)


def _how_often(s: str, c: str) -> int:
    return len([x for x in s if x == c])


STRINGS = Family(
    "strings",
    "s",
    "a string",
    _letters,
    (
        step("reverse", "reverse the string|turn the string around", "s[::-1]", lambda s, _: _joined(_backwards(s))),
        step("upper", "convert the string to upper case|make all letters upper case", "s.upper()",
             lambda s, _: _upper(s)),
        step("lower", "convert the string to lower case|make all letters lower case", "s.lower()",
             lambda s, _: _lower(s)),
        step("first_k", "keep the first {k} characters|cut the string after {k} characters", "s[:{k}]",
             lambda s, k: _joined(_first(s, k)), (2, 3, 4, 5)),
        step("last_k", "keep the last {k} characters|keep only the final {k} characters", "s[-{k}:]",
             lambda s, k: _joined(_backwards(_first(_backwards(s), k))), (2, 3, 4, 5)),
        step("every_second",
             "keep every second character, starting with the first|keep the characters at even positions",
             "s[::2]", lambda s, _: _joined(c for i, c in enumerate(s) if i % 2 == 0)),
        step("drop_vowels", "remove the lower case vowels|drop every a, e, i, o and u",
             '"".join(c for c in s if c not in "aeiou")',
             lambda s, _: _joined(c for c in s if _how_often(_VOWELS, c) == 0)),
        step("double", "double every character|write each character twice", '"".join(c + c for c in s)',
             lambda s, _: _joined(s[i // 2] for i in range(2 * len(s)))),
        step("distinct", "remove repeated characters, keeping first occurrences|keep the first of equal characters",
             '"".join(dict.fromkeys(s))', lambda s, _: _joined(_seen_first(s))),
        step("sort", "sort the characters|put the characters in order", '"".join(sorted(s))',
             lambda s, _: _joined(_smallest_first(s))),
        step("append", "append {k}|add {k} at the end", "s + {k}", lambda s, k: _joined([s, k]), ("!", "?", "ab",
             "xyz")),
        step("replace", "replace every a by {k}|put {k} in place of each a", 's.replace("a", {k})',
             lambda s, k: _joined(k if c == "a" else c for c in s), ("o", "u", "_", "aa")),
        end("length", "the length of the string|the number of characters", "len(s)", lambda s, _: sum(1 for _c in s)),
        end("n_vowels", "the number of lower case vowels|how many of a, e, i, o, u it has",
            'sum(c in "aeiou" for c in s)', lambda s, _: sum(_how_often(s, v) for v in _VOWELS)),
        end("palindrome", "whether the string is a palindrome|whether it reads the same backwards", "s == s[::-1]",
            lambda s, _: not [i for i in range(len(s)) if s[i] != s[len(s) - 1 - i]]),
        end("count_of", "how often {k} occurs|the number of characters equal to {k}", "s.count({k})",
            lambda s, k: _how_often(s, k), ("a", "e", "n", "l")),
        end("characters", "the list of characters|its characters as a list", "list(s)", lambda s, _: [*s]),
        end("n_distinct", "the number of different characters|how many different characters it has", "len(set(s))",
            lambda s, _: len(_seen_first(s))),
    ),
)  # fmt: skip


def _sentence(source: random.Random) -> str:
    return " ".join(source.choice(_WORDS) for _ in range(source.randint(2, 5)))


def _cut(s: str, gap: str = " ") -> list[str]:
    found = [""]
    for c in s:
        if c == gap:
            found.append("")
        else:
            found[-1] += c
    return found if s else []


def _on_words(change: Callable[[list[str], Any], list[str]]) -> Callable[[str, Any], str]:
    return lambda s, k: _joined(change(_cut(s), k), " ")


def _words(
    name: str, phrases: str, code: str, change: Callable[[list[str], Any], list[str]], ks: Any = ()
) -> Primitive:
    return step(name, phrases, f'" ".join({code})', _on_words(change), ks)


WORDS = Family(
    "words",
    "s",
    "a string of words separated by single spaces",
    _sentence,
    (
        _words("reverse", "reverse the order of the words|turn the word order around", "s.split()[::-1]",
               lambda ws, _: _backwards(ws)),
        _words("sort", "sort the words|put the words in alphabetical order", "sorted(s.split())",
               lambda ws, _: _smallest_first(ws)),
        _words("by_length", "sort the words by length|order the words by length, keeping ties in order",
               "sorted(s.split(), key=len)", lambda ws, _: _smallest_first(ws, lambda w: sum(1 for _c in w))),
        _words("first_k", "keep the first {k} words|cut after {k} words", "s.split()[:{k}]",
               lambda ws, k: _first(ws, k), (2, 3)),
        _words("drop_first", "drop the first word|remove the first word", "s.split()[1:]",
               lambda ws, _: [w for i, w in enumerate(ws) if i]),
        _words("short", "keep the words of at most {k} letters|remove words longer than {k} letters",
               "w for w in s.split() if len(w) <= {k}", lambda ws, k: [w for w in ws if not w[k:]], (3, 4)),
        _words("distinct", "remove repeated words, keeping first occurrences|keep the first of equal words",
               "dict.fromkeys(s.split())", lambda ws, _: _seen_first(ws)),
        _words("spell_back", "reverse each word|spell every word backwards", "w[::-1] for w in s.split()",
               lambda ws, _: [_joined(_backwards(w)) for w in ws]),
        _words("capital", "capitalise each word|make the first letter of every word upper case",
               "w.capitalize() for w in s.split()", lambda ws, _: [_upper(w[0]) + _lower(w[1:]) for w in ws]),
        _words("initials", "replace each word by its first letter|shorten every word to its first letter",
               "w[0] for w in s.split()", lambda ws, _: [_joined(_first(w, 1)) for w in ws]),
        end("count", "the number of words|how many words there are", "len(s.split())", lambda s, _: len(_cut(s))),
        end("longest", "the length of the longest word, or 0|how long the longest word is, 0 if none",
            "max((len(w) for w in s.split()), default=0)", lambda s, _: max([0, *map(len, _cut(s))])),
        end("lengths", "the list of word lengths|the length of each word as a list", "[len(w) for w in s.split()]",
            lambda s, _: [sum(1 for _c in w) for w in _cut(s)]),
        end("last", "the last word, or an empty string|the final word (empty if none)", 's.split()[-1] if s else ""',
            lambda s, _: ["", *_cut(s)].pop()),
        end("list", "the list of words|its words as a list", "s.split()", lambda s, _: _cut(s)),
        end("contains", "whether the word {k} occurs|whether {k} is one of the words", "{k} in s.split()",
            lambda s, k: k in _cut(s), ("ant", "dog", "fox", "owl")),
    ),
)  # fmt: skip


def _fields(source: random.Random) -> str:
    return ",".join(str(source.randint(-20, 40)) for _ in range(source.randint(4, 6)))


def _value(text: str) -> int:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text)
    return sign * sum("0123456789".index(d) * 10**i for i, d in enumerate(reversed(digits)))


def _values(s: str) -> list[int]:
    return [_value(field) for field in _cut(s, ",")]


def _on_fields(change: Callable[[list[str], Any], list[str]]) -> Callable[[str, Any], str]:
    return lambda s, k: _joined(change(_cut(s, ","), k), ",")


PARSING = Family(
    "parsing",
    "s",
    "a string of integers separated by commas",
    _fields,
    (
        step("reverse", "reverse the order of the numbers|turn the numbers around", '",".join(s.split(",")[::-1])',
             _on_fields(lambda fs, _: _backwards(fs))),
        step("sort", "sort the numbers by value|put the numbers in ascending order",
             '",".join(sorted(s.split(","), key=int))', _on_fields(lambda fs, _: _smallest_first(fs, _value))),
        step("drop_first", "drop the first number|remove the first number", '",".join(s.split(",")[1:])',
             _on_fields(lambda fs, _: [f for i, f in enumerate(fs) if i])),
        step("drop_last", "drop the last number|remove the last number", '",".join(s.split(",")[:-1])',
             _on_fields(lambda fs, _: _first(fs, len(fs) - 1))),
        step("first_k", "keep the first {k} numbers|cut after {k} numbers", '",".join(s.split(",")[:{k}])',
             _on_fields(lambda fs, k: _first(fs, k)), (3, 4)),
        step("multiply", "multiply each number by {k}|take {k} times every number",
             '",".join(str(int(x) * {k}) for x in s.split(","))',
             _on_fields(lambda fs, k: [str(sum([_value(f)] * k)) for f in fs]), (2, 3, 10)),
        step("add", "add {k} to each number|increase every number by {k}",
             '",".join(str(int(x) + {k}) for x in s.split(","))',
             _on_fields(lambda fs, k: [str(sum([_value(f), *[1] * k])) for f in fs]), range(1, 7)),
        step("unsigned", "remove all minus signs|drop the sign of every number", 's.replace("-", "")',
             lambda s, _: _joined(c for c in s if c != "-")),
        step("append", "append the number {k}|add the number {k} at the end", 's + ",{k}"',
             lambda s, k: _joined([*_cut(s, ","), str(k)], ","), range(1, 10)),
        step("distinct", "remove repeated numbers, keeping first occurrences|keep the first of equal numbers",
             '",".join(dict.fromkeys(s.split(",")))', _on_fields(lambda fs, _: _seen_first(fs))),
        end("sum", "the sum of the numbers|all numbers added up", 'sum(int(x) for x in s.split(","))',
            lambda s, _: sum(_values(s))),
        end("largest", "the largest number|the maximum of the numbers", 'max(int(x) for x in s.split(","))',
            lambda s, _: _smallest_first(_values(s)).pop()),
        end("count", "the number of numbers|how many numbers there are", 's.count(",") + 1',
            lambda s, _: len(_cut(s, ","))),
        end("list", "the numbers as a list of integers|the list of integers", '[int(x) for x in s.split(",")]',
            lambda s, _: _values(s)),
        end("first", "the first number as an integer|the first integer", 'int(s.split(",")[0])',
            lambda s, _: _values(s)[0]),
        end("n_negative", "the number of minus signs|how many numbers have a minus sign", 's.count("-")',
            lambda s, _: _how_often(s, "-")),
        end("n_even", "the number of even numbers|how many numbers are even",
            'sum(int(x) % 2 == 0 for x in s.split(","))', lambda s, _: len([f for f in _cut(s,
            ",") if f[-1] in "02468"])),
    ),
)  # fmt: skip


def _moves(source: random.Random) -> str:
    return "".join(source.choice("UDLR") for _ in range(source.randint(3, 8)))


_STEPS = {"U": (0, 1), "D": (0, -1), "L": (-1, 0), "R": (1, 0)}


def _path(s: str) -> list[tuple[int, int]]:
    return [(sum(_STEPS[c][0] for c in s[:i]), sum(_STEPS[c][1] for c in s[:i])) for i in range(len(s) + 1)]


def _counter(s: str, _: Any) -> int:
    return len(_stack(s))


def _stack(s: str) -> str:
    if not s:
        return ""
    below = _stack(s[:-1])
    return {"U": below + "x", "D": below[:-1]}.get(s[-1], below)


def _longest_run(s: str, k: str) -> int:
    return max(n for n in range(len(s) + 1) if k * n in s)


MACHINES = Family(
    "machines",
    "s",
    "a string of moves U, D, L and R",
    _moves,
    (
        step("reverse", "reverse the moves|take the moves in reverse order", "s[::-1]",
             lambda s, _: _joined(_backwards(s))),
        step("delete", "remove every {k}|drop all moves {k}", 's.replace({k}, "")',
             lambda s, k: _joined(c for c in s if c != k), tuple("UDLR")),
        step("rename", "turn every {k} into U|replace each {k} by U", 's.replace({k}, "U")',
             lambda s, k: _joined("U" if c == k else c for c in s), tuple("DLR")),
        step("twice", "repeat the moves twice|append the moves to themselves", "s + s", lambda s, _: _joined([s, s])),
        step("drop_first", "drop the first move|remove the first move", "s[1:]", lambda s, _: _joined([*s][1:])),
        step("first_k", "keep the first {k} moves|cut after {k} moves", "s[:{k}]", lambda s, k: _joined(_first(s, k)),
             (3, 4, 5)),
        step("every_second", "keep every second move, starting with the first|keep the moves at even positions",
             "s[::2]", lambda s, _: _joined(c for i, c in enumerate(s) if i % 2 == 0)),
        step("append", "append {k}|add the moves {k} at the end", "s + {k}", lambda s, k: _joined([s, k]),
             ("UU", "LR", "DL", "RU")),
        end("x", "the final x position, R adding one and L taking one|final x from 0: R is +1, L is -1",
            's.count("R") - s.count("L")', lambda s, _: _path(s)[-1][0]),
        end("y", "the final height, U adding one and D taking one|final y from 0: U is +1, D is -1",
            's.count("U") - s.count("D")', lambda s, _: _path(s)[-1][1]),
        end("highest", "the greatest height reached from 0, U being +1 and D -1|the highest y on the way from 0",
            'y = top = 0\nfor c in s:\n    y += (c == "U") - (c == "D")\n    top = max(top, y)\ntop',
            lambda s, _: max(y for _x, y in _path(s))),
        end("counter",
            "a counter that U raises and D lowers, but never below 0|the final counter: U +1, D -1, not below 0",
            'n = 0\nfor c in s:\n    n = max(0, n + (c == "U") - (c == "D"))\nn', _counter),
        end("run", "the length of the longest run of {k}|the most moves {k} in a row",
            "n = top = 0\nfor c in s:\n    n = n + 1 if c == {k} else 0\n    top = max(top, n)\ntop", _longest_run,
            ("U", "L", "R")),
        end("lamp", "whether a lamp, off at first and toggled by each {k}, is on|whether the number of {k} is odd",
            "on = False\nfor c in s:\n    if c == {k}:\n        on = not on\non",
            lambda s, k: _how_often(s, k) in range(1, 99, 2), ("U", "L", "D")),
        end("turns", "how often the move changes|the number of neighbouring moves that differ",
            "sum(a != b for a, b in zip(s, s[1:]))",
            lambda s, _: len([i for i in range(1, len(s)) if s[i] != s[i - 1]])),
        end("crossings",
            "how many steps start at x = 0 and go R, with L and R moving x|the number of R steps from x = 0",
            'x = n = 0\nfor c in s:\n    n += x == 0 and c == "R"\n    x += (c == "R") - (c == "L")\nn',
            lambda s, _: len([i for i, c in enumerate(s) if c == "R" and _path(s)[i][0] == 0])),
    ),
)  # fmt: skip
