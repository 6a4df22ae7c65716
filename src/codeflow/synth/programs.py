"""Small generated programs that print one thing: assignments, loops, conditions, strings, lists, functions.

Not covered: input, files, classes, exceptions, imports. Which of them are worth asking about is for the execution to
say (errors, long values and long runs are left out).
"""

from __future__ import annotations

import random
from collections.abc import Callable

_WORDS = ("river", "stone", "cloud", "maple", "ocean", "tiger", "piano", "lemon", "audio", "queue")


def make_program(source: random.Random) -> str:
    """Return the source text of a program; a pure function of the state of `source`."""
    return source.choice(_SHAPES)(source)


def _number(source: random.Random, low: int = 1, high: int = 9) -> int:
    return source.randint(low, high)


def _numbers(source: random.Random) -> list[int]:
    return [_number(source, -5, 12) for _ in range(_number(source, 3, 5))]


def _condition(source: random.Random, name: str) -> str:
    k = _number(source, 2, 5)
    return source.choice(
        (f"{name} > {k}", f"{name} < {k}", f"{name} % {k} == 0", f"{name} % 2 == 1", f"{name} != {k}", f"{name} >= {k}")
    )


def _operation(source: random.Random, name: str) -> str:
    k = _number(source, 2, 7)
    return source.choice(
        (f"{name} + {k}", f"{name} - {k}", f"{name} * {k}", f"{name} // {k}", f"{name} % {k}", f"-{name}")
    )


def _straight(source: random.Random) -> str:
    lines = [f"a = {_number(source, 1, 20)}", f"b = {_number(source, 1, 20)}"]
    for _ in range(_number(source, 2, 4)):
        target, left, right = (source.choice("ab") for _ in range(3))
        value = source.choice((_operation(source, left), f"{left} {source.choice('+-*')} {right}"))
        lines.append(f"{target} = {value}")
    return _text(lines, source.choice(("a", "b", "a + b", "a - b", "a < b", "max(a, b)")))


def _counted_loop(source: random.Random) -> str:
    low = _number(source, 0, 3)
    update = source.choice(("total += i", "total += i * i", "total -= i", "total = total * 2 + i", "total += 1"))
    lines = [f"total = {_number(source, 0, 5)}", f"for i in range({low}, {low + _number(source, 3, 6)}):"]
    if source.random() < 0.6:
        lines += [f"    if {_condition(source, 'i')}:", f"        {update}"]
        if source.random() < 0.5:
            lines += ["    else:", f"        total -= {_number(source, 1, 3)}"]
    else:
        lines.append(f"    {update}")
    return _text(lines, source.choice(("total", "total % 5", "total + i")))


def _while_loop(source: random.Random) -> str:
    step = source.choice(("n = n // 2", "n = n // 3", f"n -= {_number(source, 4, 9)}"))
    lines = [f"n = {_number(source, 8, 40)}", "steps = 0", f"while n > {_number(source, 0, 4)}:", f"    {step}"]
    lines.append(source.choice(("    steps += 1", "    steps += n", "    steps = steps * 2 + 1")))
    return _text(lines, source.choice(("steps", "steps - n", "n")))


def _list_walk(source: random.Random) -> str:
    lines = [f"xs = {_numbers(source)}"]
    if source.random() < 0.5:
        update = source.choice(("count += 1", "count += x", "count = max(count, x)"))
        lines += ["count = 0", "for x in xs:", f"    if {_condition(source, 'x')}:", f"        {update}"]
        return _text(lines, "count")
    lines += [
        "ys = []",
        "for x in xs:",
        f"    if {_condition(source, 'x')}:",
        f"        ys.append({_operation(source, 'x')})",
    ]
    return _text(lines, source.choice(("ys", "len(ys)", "sum(ys)", "ys[::-1]")))


def _list_edits(source: random.Random) -> str:
    lines = [f"xs = {_numbers(source)}"]
    for _ in range(_number(source, 2, 4)):
        k = _number(source)
        edit = (f"xs.append({k})", f"xs.insert(0, {k})", "xs.pop()", "xs = xs[::-1]", "xs.sort()", f"xs[0] = {k}")
        lines.append(source.choice((*edit, "xs = xs[1:]", "xs = xs + xs[:1]", f"xs[-1] += {k}")))
    return _text(lines, source.choice(("xs", "xs", "xs[0]", "len(xs)", "sum(xs)", "xs[-1] - xs[0]")))


def _string_walk(source: random.Random) -> str:
    update = source.choice(("t = c + t", "t += c + c", 't += c + "-"', "t += c.upper()"))
    lines = [f's = "{source.choice(_WORDS)}"', 't = ""', "for c in s:"]
    if source.random() < 0.6:
        letters = source.choice(("aeiou", "lmnop", "rst"))
        lines += [f'    if c {source.choice(("in", "not in"))} "{letters}":', f"        {update}"]
    else:
        lines.append(f"    {update}")
    return _text(lines, source.choice(("t", "t", "len(t)", "t + s")))


def _function(source: random.Random) -> str:
    lines = ["def f(a, b):", f"    if a {source.choice('<>')} b:", f"        return {_operation(source, 'a')}"]
    lines += [f"    a = a {source.choice('+-*')} b", f"    return {_operation(source, 'a')}", ""]
    x, y, z = (_number(source) for _ in range(3))
    lines += [f"n = f({x}, {y})", f"n = {source.choice((f'f(n, {z})', f'f({z}, n)', f'n + f({y}, {x})'))}"]
    return _text(lines, "n")


def _dictionary(source: random.Random) -> str:
    word = "".join(source.choice("abc") for _ in range(_number(source, 3, 6)))
    step = source.choice(("d[c] = d.get(c, 0) + 1", f"d[c] = d.get(c, {_number(source)}) * 2", "d[c] = len(d)"))
    lines = [f'w = "{word}"', "d = {}", "for c in w:", f"    {step}"]
    return _text(lines, source.choice(("d", "len(d)", "sum(d.values())", 'd.get("a", 0)', "sorted(d)")))


def _text(lines: list[str], value: str) -> str:
    return "\n".join([*lines, f"print({value})"]) + "\n"


_SHAPES: tuple[Callable[[random.Random], str], ...] = (
    _straight,
    _counted_loop,
    _while_loop,
    _list_walk,
    _list_edits,
    _string_walk,
    _function,
    _dictionary,
)
