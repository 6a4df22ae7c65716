"""Families over one integer: arithmetic, number theory, bits.

Oracles count, search and look at digits where the solutions calculate.
"""

from __future__ import annotations

from codeflow.synth.primitive import Family, end, step


def _times(n: int, k: int) -> int:
    return sum([n] * k)


def _remainder(n: int, k: int) -> int:
    while n < 0:
        n += k
    while n >= k:
        n -= k
    return n


def _half(n: int) -> int:
    return len(range(1, n + 1)[1::2]) if n >= 0 else -len(range(1, 1 - n)[::2])


def _digits(n: int) -> list[int]:
    found: list[int] = []
    n = max(n, -n)
    while n >= 10:
        n, digit = divmod(n, 10)
        found.insert(0, digit)
    return [n, *found]


def _text(n: int) -> str:
    return ("-" if n < 0 else "") + "".join("0123456789"[d] for d in _digits(n))


ARITHMETIC = Family(
    "arithmetic",
    "n",
    "an integer",
    lambda source: source.randint(-30, 60),
    (
        step("add", "add {k}|increase it by {k}", "n + {k}", lambda n, k: sum([n, *[1] * k]), range(2, 10)),
        step("subtract", "subtract {k}|decrease it by {k}", "n - {k}", lambda n, k: sum([n, *[-1] * k]), range(2, 10)),
        step("multiply", "multiply it by {k}|take {k} times its value", "n * {k}", _times, range(2, 7)),
        step("absolute", "take its absolute value|drop its sign", "abs(n)", lambda n, _: max(n, -n)),
        step("square", "square it|multiply it by itself", "n * n", lambda n, _: sum([abs(n)] * abs(n))),
        step("halve", "halve it, rounding down|divide it by two, rounding down", "n // 2", lambda n, _: _half(n)),
        step("negate", "negate it|change its sign", "-n", lambda n, _: 0 - n),
        step("remainder", "take its remainder modulo {k}|reduce it modulo {k}", "n % {k}", _remainder, range(3, 12)),
        step("floor", "replace it by {k} if it is below {k}|raise it to at least {k}", "max(n, {k})",
             lambda n, k: k if n < k else n, range(-3, 6)),
        step("cap", "cap it at {k}|limit it to at most {k}", "min(n, {k})", lambda n, k: k if n > k else n,
             range(5, 30, 3)),
        end("even", "whether it is even|whether two divides it", "n % 2 == 0",
            lambda n, _: _digits(n)[-1] in (0, 2, 4, 6, 8)),
        end("above", "whether it is greater than {k}|whether it exceeds {k}", "n > {k}", lambda n, k: n - k >= 1,
            range(0, 20, 3)),
        end("text", "it as a string|its decimal text", "str(n)", lambda n, _: _text(n)),
        end("digit_sum", "the sum of its digits, ignoring the sign|its digit sum, ignoring the sign",
            "sum(int(c) for c in str(abs(n)))", lambda n, _: sum(_digits(n))),
        end("with_next", "a list of it and its successor|it and the next integer as a list", "[n, n + 1]",
            lambda n, _: list(range(n, n + 2))),
    ),
)  # fmt: skip


def _divisors(n: int) -> list[int]:
    found, low = set(), 1
    while low * low <= n:
        if n % low == 0:
            found |= {low, n // low}
        low += 1
    return sorted(found)


def _without_twos(n: int) -> int:
    return max(d for d in _divisors(n) if d % 2)


NUMBER_THEORY = Family(
    "number_theory",
    "n",
    "a positive integer",
    lambda source: source.randint(1, 60),
    (
        step("double", "double it|take twice its value", "n * 2", lambda n, _: n + n),
        step("plus", "add {k}|increase it by {k}", "n + {k}", lambda n, k: sum([n, *[1] * k]), range(1, 7)),
        step("odd_part", "halve it as long as it is even|remove all factors of two",
             "while n % 2 == 0:\n    n = n // 2\nn", lambda n, _: _without_twos(n)),
        step("common", "take its greatest common divisor with {k}|take the greatest common divisor of it and {k}",
             "max(d for d in range(1, {k} + 1) if n % d == 0 and {k} % d == 0)",
             lambda n, k: max(set(_divisors(n)) & set(_divisors(k))), (12, 18, 24, 30)),
        step("triangular", "take the sum of all integers from 1 to it|add up the integers from 1 to it",
             "n * (n + 1) // 2", lambda n, _: sum(range(n + 1))),
        step("digit_sum", "take the sum of its digits|replace it by its digit sum", "sum(int(c) for c in str(n))",
             lambda n, _: sum(_digits(n))),
        step("n_divisors", "take the number of its divisors|count its divisors",
             "sum(n % d == 0 for d in range(1, n + 1))", lambda n, _: len(_divisors(n))),
        step("collatz", "halve it if it is even, else triple it and add one|make one Collatz step",
             "n // 2 if n % 2 == 0 else 3 * n + 1", lambda n, _: (n + n + n + 1) if n % 2 else _half(n)),
        step("reverse_digits", "reverse its digits|read its digits backwards", "int(str(n)[::-1])",
             lambda n, _: sum(d * 10**i for i, d in enumerate(_digits(n)))),
        end("divisors", "the ascending list of its divisors|all its divisors in ascending order",
            "[d for d in range(1, n + 1) if n % d == 0]", lambda n, _: _divisors(n)),
        end("prime", "whether it is prime|whether it is a prime number", "n > 1 and all(n % d for d in range(2, n))",
            lambda n, _: len(_divisors(n)) == 2),
        end("divisible", "whether it is divisible by {k}|whether {k} divides it", "n % {k} == 0",
            lambda n, k: n in range(0, n + 1, k), range(3, 9)),
        end("digits", "the list of its digits|its decimal digits as a list", "[int(c) for c in str(n)]",
            lambda n, _: _digits(n)),
        end("is_square", "whether it is a perfect square|whether it is the square of an integer",
            "int(n ** 0.5) ** 2 == n", lambda n, _: len(_divisors(n)) % 2 == 1),
        end("prime_factors", "the list of its prime divisors|the primes that divide it, ascending",
            "[p for p in range(2, n + 1) if n % p == 0 and all(p % d for d in range(2, p))]",
            lambda n, _: [d for d in _divisors(n) if len(_divisors(d)) == 2]),
    ),
)  # fmt: skip


def _bits(n: int) -> list[int]:
    """Least significant first; none for 0."""
    return [] if n == 0 else [n % 2, *_bits(n // 2)]


def _number(bits: list[int]) -> int:
    return sum(2**i for i, bit in enumerate(bits) if bit)


def _bitwise(n: int, k: int, keep: tuple[int, ...]) -> int:
    """Combine bit by bit: a bit is set when the number of ones in that place is in `keep`."""
    left, right = _bits(n), _bits(k)
    longest = max(len(left), len(right))
    pairs = zip(left + [0] * (longest - len(left)), right + [0] * (longest - len(right)), strict=True)
    return _number([int(a + b in keep) for a, b in pairs])


def _lowest(n: int) -> int:
    bits = _bits(n)
    return 2 ** bits.index(1) if bits else 0


BITS = Family(
    "bits",
    "n",
    "a non-negative integer",
    lambda source: source.randint(0, 255),
    (
        step("shift_left", "shift it left by {k} bits|shift its bits left by {k}", "n << {k}",
             lambda n, k: _number([0] * k + _bits(n)), (2, 3, 4)),
        step("shift_right", "shift it right by {k} bits|shift its bits right by {k}", "n >> {k}",
             lambda n, k: _number(_bits(n)[k:]), (2, 3, 4)),
        step("mask", "take the bitwise and with {k}|mask it with {k}", "n & {k}", lambda n, k: _bitwise(n, k, (2,)),
             (15, 60, 85, 170, 240)),
        step("set", "take the bitwise or with {k}|set the bits of {k} in it", "n | {k}",
             lambda n, k: _bitwise(n, k, (1, 2)), (5, 9, 16, 33, 66)),
        step("flip", "take the bitwise xor with {k}|flip the bits of {k} in it", "n ^ {k}",
             lambda n, k: _bitwise(n, k, (1,)), (7, 21, 42, 99, 255)),
        step("clear_lowest", "clear its lowest set bit|turn its lowest one bit into zero", "n & (n - 1)",
             lambda n, _: n - _lowest(n)),
        step("lowest", "keep only its lowest set bit|isolate its lowest one bit", "n & -n", lambda n, _: _lowest(n)),
        step("low_bits", "keep its lowest {k} bits|keep only the last {k} bits", "n & ((1 << {k}) - 1)",
             lambda n, k: _number(_bits(n)[:k]), (3, 4, 5)),
        step("reverse_bits", "reverse its binary digits|read its binary digits backwards", "int(bin(n)[:1:-1], 2)",
             lambda n, _: _number(_bits(n)[::-1])),
        end("ones", "the number of its set bits|how many of its bits are one", 'bin(n).count("1")',
            lambda n, _: sum(_bits(n))),
        end("length", "its bit length|the number of its binary digits, 0 for 0", "n.bit_length()",
            lambda n, _: len(_bits(n))),
        end("binary", "its binary text|it as a string of binary digits", "bin(n)[2:]",
            lambda n, _: "".join("01"[b] for b in reversed(_bits(n))) or "0"),
        end("has_bit", "whether its bit {k} is set|whether bit {k} of it is one", "n >> {k} & 1 == 1",
            lambda n, k: (_bits(n) + [0] * 9)[k] == 1, (0, 1, 2, 3)),
        end("odd_ones", "whether the number of its set bits is odd|whether it has an odd number of ones",
            'bin(n).count("1") % 2 == 1', lambda n, _: sum(_bits(n)) in range(1, 99, 2)),
        end("bit_list", "the list of its binary digits|its binary digits as a list of integers",
            "[int(c) for c in bin(n)[2:]]", lambda n, _: _bits(n)[::-1] or [0]),
    ),
)  # fmt: skip
